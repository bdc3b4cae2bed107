"""What the server's process holds: memory, objects, and what stands on the networks."""

import gc
import os
from collections import Counter

import torch

_PAGE = os.sysconf("SC_PAGE_SIZE")


def marks(network):
    """Names of modules that carry what a fresh one has not: hooks, a forward of their own, anything of ours."""
    found = []
    for name, module in network.named_modules():
        hooks = [k for k, v in module.__dict__.items() if "hook" in k and v]
        if hooks or "forward" in module.__dict__ or "skipstone" in str(list(module.__dict__)).lower():
            found.append(name or "root")
    return found


def state(networks):
    """Resident MiB, objects, tensors and their MiB, our own objects by class, and marks on the networks."""
    gc.collect()
    objects = gc.get_objects()
    tensors = [one for one in objects if type(one) in (torch.Tensor, torch.nn.Parameter)]
    own = Counter(type(one).__qualname__ for one in objects if "skipstone" in str(type(one).__module__))
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * _PAGE
    return {
        "resident": resident / 2**20,
        "objects": len(objects),
        "tensors": len(tensors),
        "tensor_memory": sum({one.data_ptr(): one.nbytes for one in tensors}.values()) / 2**20,
        "own": dict(own),
        "marks": sum(len(marks(network)) for network in networks),
    }
