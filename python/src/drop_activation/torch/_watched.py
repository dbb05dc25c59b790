"""Modules whose code is watched for calls of ReLU: the same objects, of a subclass that does nothing else."""

from __future__ import annotations

import abc
import copy
import functools
import inspect

from torch import fx, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.parametrize import is_parametrized

from ._intercept import Record, running


def is_watched(module: nn.Module) -> bool:
    return vars(module).get("_drop_activation") is not None  # what torch.compile makes has its module's attributes


def watch(module: nn.Module, record: Record) -> None:
    vars(module)["_drop_activation"] = record  # a class may refuse attributes
    if isinstance(module, fx.GraphModule):
        _watch_graph(type(module))
        module.recompile()
        return
    if not hasattr(type(module), "_watched_class"):
        if is_parametrized(module):  # a class of its own, below which the module's class is expected
            type(module).__bases__ = tuple(map(_subclass, type(module).__bases__))
        else:
            _become(module, _subclass(type(module)))
    if "forward" in vars(module):
        record.changed["forward"] = vars(module)["forward"]
        vars(module)["forward"] = functools.partial(_run_kept_forward, module)


def unwatch(module: nn.Module) -> None:
    for name, value in module._drop_activation.changed.items():
        vars(module)[name] = value
    del vars(module)["_drop_activation"]
    for name in ("drop_activation", "drop_activation_"):
        module._modules.pop(name, None)
    if isinstance(module, fx.GraphModule):
        for name in _GRAPH_MEMBERS:
            delattr(type(module), name)
        module.recompile()
    elif "_watched_class" in vars(type(module)):  # else somebody made a subclass in turn: it stays, and watches nothing
        _become(module, type(module)._watched_class)


def _become(module: nn.Module, cls: type) -> None:
    object.__setattr__(module, "__class__", cls)


class _Silent:
    """Above a class, so that this one does not learn of the subclass: it may keep a list of them."""

    def __init_subclass__(cls, **kwargs):
        pass


def _run_kept_forward(module, *args, **kwargs):
    return running(module, module._drop_activation.changed["forward"], args, kwargs)


@functools.cache
def _subclass(plain: type) -> type:
    """`__call__` reaches hooks, and a forward that was put on the module later; `forward` is for who calls it directly,
    and where torch.fx looks. Both keep their signatures."""

    @functools.wraps(plain.__call__)
    def __call__(self, *args, **kwargs):
        return running(self, plain.__call__, (self, *args), kwargs)

    forward = _with_signature_of(plain.forward, lambda self, args, kwargs: running(self, plain.forward, args, kwargs))

    def __reduce_ex__(self, protocol):
        """As the class that can be found by its name, and then made one of this."""
        stand_in = object.__new__(plain)
        stand_in.__dict__ = self.__dict__
        make, arguments, *rest = stand_in.__reduce_ex__(protocol)
        return _made_again, (make, arguments, self._drop_activation), *rest

    def __prepare_scriptable__(self):
        raise TypeError(
            f"{plain.__name__} cannot be scripted: its calls of ReLU are replaced while its Python code runs, and "
            "TorchScript compiles the source. Use torch.jit.trace or torch.export, or in evaluation mode "
            "drop_activation.torch.fold first"
        )

    members = {
        # What a watched module makes by its own class, as nn.Sequential does for a slice, is not watched.
        "_drop_activation": None,
        "__call__": __call__,
        "forward": forward,
        "__reduce_ex__": __reduce_ex__,
        "__prepare_scriptable__": __prepare_scriptable__,
        "__module__": plain.__module__,
        "__qualname__": plain.__qualname__,
        "__doc__": plain.__doc__,
        "_watched_class": plain,
    }
    if issubclass(plain, LazyModuleMixin) and plain.cls_to_become is not None:
        members["cls_to_become"] = _subclass(plain.cls_to_become)
    make = abc.ABCMeta.__new__ if issubclass(type(plain), abc.ABCMeta) else type.__new__
    return make(type(plain), plain.__name__, (_Silent, plain), members)


def _with_signature_of(plain, call):
    """A function that does what call(self, args, kwargs) does, with the parameters of `plain`, self among them.

    To torch.fx a signature is what the code object says, and not what `functools.wraps` writes beside it.
    """
    try:
        parameters = list(inspect.signature(plain).parameters.values())
    except ValueError:
        parameters = []
    if not parameters or parameters[0].kind is inspect.Parameter.VAR_POSITIONAL:
        return functools.wraps(plain)(lambda self, *args, **kwargs: call(self, (self, *args), kwargs))
    declared, args, kwargs, starred = [], [], [], False
    for i, parameter in enumerate(parameters):
        name = parameter.name
        following = parameters[i + 1].kind if i + 1 < len(parameters) else None
        default = "" if parameter.default is parameter.empty else f"=defaults[{name!r}]"
        if parameter.kind is parameter.VAR_POSITIONAL:
            declared, args, starred = [*declared, f"*{name}"], [*args, f"*{name}"], True
        elif parameter.kind is parameter.VAR_KEYWORD:
            declared, kwargs = [*declared, f"**{name}"], [*kwargs, f"**{name}"]
        elif parameter.kind is parameter.KEYWORD_ONLY:
            declared += [f"{name}{default}"] if starred else ["*", f"{name}{default}"]
            kwargs, starred = [*kwargs, f"{name!r}: {name}"], True
        else:
            declared, args = [*declared, f"{name}{default}"], [*args, name]
            if parameter.kind is parameter.POSITIONAL_ONLY and following is not parameter.POSITIONAL_ONLY:
                declared.append("/")
    given = f"({', '.join(args)},), {{{', '.join(kwargs)}}}"
    names = {"call": call, "defaults": {p.name: p.default for p in parameters}}
    exec(f"def forward({', '.join(declared)}):\n    return call({args[0]}, {given})", names)
    return functools.wraps(plain)(names["forward"])


def _made_again(make, arguments, record):
    module = make(*arguments)
    watch(module, record)
    return module


# Each GraphModule has a class of its own, for the code that its graph was made into, and no other class may be put
# below it: the code is made by methods of this class.

_GRAPH_MEMBERS = ("recompile", "__reduce_ex__", "__copy__", "__deepcopy__")


def _watch_graph(cls: type) -> None:
    def recompile(self):
        code = super(cls, self).recompile()
        generated = vars(cls)["forward"]

        @functools.wraps(generated)
        def forward(self, *args, **kwargs):
            return running(self, generated, (self, *args), kwargs)

        cls.forward = forward
        return code

    def __reduce_ex__(self, protocol):
        make, arguments, *rest = super(cls, self).__reduce__()
        return _made_again, (make, arguments, self._drop_activation), *rest

    def __copy__(self):
        copied = super(cls, self).__copy__()
        watch(copied, self._drop_activation)
        return copied

    def __deepcopy__(self, memo):
        copied = super(cls, self).__deepcopy__(memo)
        watch(copied, copy.deepcopy(self._drop_activation, memo))
        return copied

    for name, member in zip(_GRAPH_MEMBERS, (recompile, __reduce_ex__, __copy__, __deepcopy__)):
        setattr(cls, name, member)
