"""Models whose batch normalisations and ReLUs were made one: which, and that a training step is the model's own."""

import pytest

torch = pytest.importorskip("torch", reason="SKIPPED: PyTorch is not installed")

import torch.nn.functional as F
from torch import nn

import drop_activation.torch as dt


class Written(nn.Module):
    """Each way to call a ReLU behind a batch normalisation, and each reason not to fuse it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.bn1, self.bn2, self.bn3, self.bn4, self.bn5, self.twice = (nn.BatchNorm2d(4) for _ in range(6))
        self.relu, self.group, self.alone = nn.ReLU(inplace=True), nn.GroupNorm(2, 4), nn.BatchNorm2d(4)
        self.sync = nn.SyncBatchNorm(4)

    def forward(self, x):
        x = self.relu(self.bn1(self.conv(x)))
        x = F.relu(x + self.bn2(x))
        y = self.bn3(x)
        y += x
        x = y.relu()
        z = self.bn4(x)
        x = torch.relu(z) + z.mean()
        x = F.relu(self.twice(x)) + F.relu(self.twice(x + 1))
        x = F.relu(self.group(x))
        return self.alone(self.bn5(x).relu_()).mean((2, 3))


def test_what_is_fused_and_what_is_left_is_told():
    model = Written()
    del model.sync
    result = dt.fuse_batch_norm(model, p=0.9)
    assert result.fused == ["bn1", "bn2", "bn3", "bn5"]
    assert result.with_residual == ["bn2", "bn3"]
    reasons = [left.reason for left in result.left]
    assert reasons == [
        "bn4 has other users too",
        "twice is called 2 times",
        "twice is called 2 times",
        "no batch normalisation before it",
        "no ReLU behind it alone",
        "no ReLU behind it alone",
        "no ReLU behind it alone",
    ]
    assert [left.name for left in result.left[-3:]] == ["bn4", "twice", "alone"]
    assert result.model.bn1.p == 0.9 and result.model.bn1.weight is model.bn1.weight
    assert type(model.bn1) is nn.BatchNorm2d, "the model itself is as it was"
    assert set(result.model.state_dict()) == set(model.state_dict())


def step(model, x, labels):
    model.zero_grad()
    F.cross_entropy(model(x), labels).backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    return gradients, {name: buffer.clone() for name, buffer in model.named_buffers()}


MODELS = ["written", "resnet18", "wide_resnet50_2", "resnext50_32x4d", "densenet121", "timm", "timm_preact"]


@pytest.mark.parametrize("name", MODELS)
def test_a_training_step_with_p_of_one_is_the_model_s(name):
    torch.manual_seed(1)
    if name == "written":
        model = Written()
        del model.sync
        model = nn.Sequential(model, nn.Linear(4, 3))
    elif name.startswith("timm"):
        timm = pytest.importorskip("timm", reason="SKIPPED: timm is not installed")
        model = timm.create_model({"timm": "resnet18", "timm_preact": "resnetv2_50"}[name], num_classes=3)
    else:
        models = pytest.importorskip("torchvision", reason="SKIPPED: torchvision is not installed").models
        model = getattr(models, name)(num_classes=3)
    model = model.double().train()
    x, labels = torch.randn(4, 3, 40, 40).double(), torch.randint(3, (4,))
    state = {key: value.clone() for key, value in model.state_dict().items()}
    expected = step(model, x, labels)
    model.load_state_dict(state)
    result = dt.replace_relu(model, p=1.0, fuse=True)
    least = {"written": 4, "resnet18": 17, "wide_resnet50_2": 49, "resnext50_32x4d": 49, "densenet121": 120, "timm": 17}
    least["timm_preact"] = 49
    assert len(result.fused) >= least[name], result.left
    given = step(result.model, x, labels)
    for ours, theirs in zip(given, expected):
        assert ours.keys() == theirs.keys()
        for of in ours:
            assert torch.allclose(ours[of], theirs[of], rtol=1e-7, atol=1e-9), of


def test_batch_normalisations_of_timm_with_another_activation_stay():
    timm = pytest.importorskip("timm", reason="SKIPPED: timm is not installed")
    BatchNormAct2d = timm.layers.BatchNormAct2d
    relu, silu, none = BatchNormAct2d(3), BatchNormAct2d(3, act_layer=nn.SiLU), BatchNormAct2d(3, apply_act=False)
    dropped = BatchNormAct2d(3, drop_layer=nn.Dropout)
    model = nn.Sequential(relu, silu, none, dropped)
    x, state = torch.randn(2, 3, 4, 4), {key: value.clone() for key, value in model.state_dict().items()}
    torch.manual_seed(1)
    expected = model(x)
    model.load_state_dict(state)
    result = dt.replace_relu(model, p=1.0, fuse=True)
    assert result.fused == ["0"] and not result.with_residual
    torch.manual_seed(1)
    assert torch.allclose(result.model(x), expected, atol=1e-6)


def test_one_of_timm_that_is_called_twice_stays():
    timm = pytest.importorskip("timm", reason="SKIPPED: timm is not installed")
    norm = timm.layers.BatchNormAct2d(3)
    result = dt.replace_relu(nn.Sequential(norm, norm), fuse=True)
    assert not result.fused and "0 is called 2 times" in [left.reason for left in result.left]


def test_fusing_takes_no_composition():
    with pytest.raises(ValueError, match="fused must be True where fuse is, got 'auto'"):
        dt.replace_relu(nn.Sequential(nn.ReLU()), fused="auto", fuse=True)


def test_what_cannot_be_traced_is_refused():
    class Branches(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match="torch.fx can trace, got a Branches"):
        dt.fuse_batch_norm(Branches())
    with pytest.raises(ValueError, match="p must be in"):
        dt.fuse_batch_norm(nn.ReLU(), p=3.0)
