"""The operators under torch.func.functionalize, for which PyTorch has no rule where an autograd.Function is called."""

from __future__ import annotations

from torch._functorch.pyfunctorch import TransformType, retrieve_all_functorch_interpreters
from torch._subclasses.functional_tensor import FunctorchFunctionalizeAPI


def where_transforms_begin(operator, function):
    """What torch.func's transforms call for an operator, which overwrites nothing: `function` has its derivatives and
    its mapping, and is no rule of functionalize."""

    def kernel(*arguments):
        interpreters = retrieve_all_functorch_interpreters()
        kinds = [interpreter.key() for interpreter in interpreters]
        if kinds[-1] == TransformType.Functionalize:
            tensors = FunctorchFunctionalizeAPI(interpreters[-1])
            inner = tensors.unwrap_tensors(arguments)
            with tensors.redispatch_to_next():
                results = operator(*inner)
            return tensors.wrap_tensors(results)
        if TransformType.Functionalize in kinds and kinds[-1] in (TransformType.Grad, TransformType.Jvp):
            raise NotImplementedError(
                "drop_activation's operators have derivatives outside of torch.func.functionalize, as in "
                "grad(functionalize(f)), got functionalize(grad(f)); with fused=False they are not called"
            )
        return function(*arguments)

    return kernel
