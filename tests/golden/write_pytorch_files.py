"""Writes the small PyTorch files of this folder; needs torch, which the tests do not: `python write_pytorch_files.py`.

The network is the CIFAR ResNet of the reference with one block a stage and 2, 4, 8 filters, trained for two epochs on
some of scikit-learn's digits, so that its running statistics and its momentum are no initial values.

    resnet8_linear.pth.tar   zip; linear head under DataParallel, SGD's momentum, best_acc1 as a tensor
    resnet8_normed.pth.tar   the layout before torch 1.6; cosine head, best_acc1 as a NumPy scalar
    resnet8.npz              images of digits (uint8), and both networks' logits in evaluation mode
"""

import pathlib

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

FOLDER = pathlib.Path(__file__).parent
FILTERS = (2, 4, 8)


class Block(nn.Module):
    def __init__(self, before, filters, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(before, filters, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)
        self.stride, self.missing = stride, (filters - before) // 2

    def forward(self, x):
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        return functional.relu(y + functional.pad(shortcut, (0, 0, 0, 0, self.missing, self.missing)))


class Normed(nn.Module):
    def __init__(self, features, classes):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(features, classes).uniform_(-1, 1))

    def forward(self, x):
        return functional.normalize(x, dim=1) @ functional.normalize(self.weight, dim=0)


class ResNet(nn.Module):
    def __init__(self, head):
        super().__init__()
        self.conv1 = nn.Conv2d(1, FILTERS[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(FILTERS[0])
        self.layer1 = nn.Sequential(Block(FILTERS[0], FILTERS[0], 1))
        self.layer2 = nn.Sequential(Block(FILTERS[0], FILTERS[1], 2))
        self.layer3 = nn.Sequential(Block(FILTERS[1], FILTERS[2], 2))
        self.linear = head(FILTERS[2], 10)

    def forward(self, x):
        x = functional.relu(self.bn1(self.conv1(x)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


def trained(model, x, y, scale):
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=2e-4)
    for batch in torch.arange(len(y)).split(50) * 2:
        optimizer.zero_grad()
        functional.cross_entropy(scale * model(x[batch]), y[batch]).backward()
        optimizer.step()
    return optimizer


def main():
    torch.manual_seed(0)
    digits = load_digits()
    images = np.round(digits.images[..., None] * (255 / 16)).astype(np.uint8)
    x = (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - 0.3) / 0.35  # as configs/digits_lt.py does
    y = torch.from_numpy(digits.target)
    linear, normed = nn.DataParallel(ResNet(nn.Linear)), ResNet(Normed)
    start = {"epoch": 2, "arch": "resnet8"}
    optimizer = trained(linear, x[:500], y[:500], 1)
    rest = {"best_acc1": torch.tensor(50.0), "optimizer": optimizer.state_dict()}
    torch.save({**start, "state_dict": linear.state_dict(), **rest}, FOLDER / "resnet8_linear.pth.tar")
    optimizer = trained(normed, x[:500], y[:500], 30)
    rest = {"best_acc1": np.float64(50), "optimizer": optimizer.state_dict()}
    torch.save(
        {**start, "state_dict": normed.state_dict(), **rest},
        FOLDER / "resnet8_normed.pth.tar",
        _use_new_zipfile_serialization=False,
    )
    with torch.no_grad():
        logits = {name: net.eval()(x[500:516]).numpy() for name, net in (("linear", linear), ("normed", normed))}
    np.savez_compressed(FOLDER / "resnet8.npz", images=images[500:516], **logits)


if __name__ == "__main__":
    main()
