"""The compiled convolutions of training are torch's, and so are their derivatives."""

import pytest
import torch
import torch.nn.functional as F

from training.conv import Conv, Snake, library

pytestmark = pytest.mark.skipif(library() is None, reason="no C++ compiler")


def assert_alike(ours, theirs, leaves):
    above = torch.randn_like(theirs)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        torch.autograd.grad(ours, leaves, above),
        torch.autograd.grad(theirs, leaves, above),
        rtol=1e-4,
        atol=2e-3,
    )


@pytest.mark.parametrize("taps", [1, 7])
@pytest.mark.parametrize("dilation", [1, 3, 9])
@pytest.mark.parametrize("channels", [12, 24])
@pytest.mark.parametrize("length", [8, 40, 520])
def test_a_convolution(taps, dilation, channels, length):
    torch.manual_seed(length)
    x = torch.randn(2, channels, length, requires_grad=True)
    weight = torch.randn(channels, channels, taps, requires_grad=True)
    bias = torch.randn(channels, requires_grad=True)
    padded = F.pad(x, ((taps - 1) * dilation, 0))
    theirs = F.conv1d(padded, weight, bias, dilation=dilation)
    assert_alike(Conv.apply(x, weight, bias, dilation), theirs, (x, weight, bias))


def test_snake():
    torch.manual_seed(0)
    x = torch.randn(2, 12, 40, requires_grad=True)
    a, b = (torch.rand(12, 1, requires_grad=True) for _ in range(2))
    assert_alike(Snake.apply(x, a, b), x + torch.sin(x * a).square() * b, (x, a, b))
