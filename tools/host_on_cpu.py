#!/usr/bin/env python3
"""Run an unmodified FastPoseGait or OpenGait checkout on a CPU, one process.

    python host_on_cpu.py PATH_OF_CHECKOUT --cfgs X.yaml --phase train [...]

Only torch is patched, from outside; no file of the host is touched. What is replaced:
torch.cuda.* queries, Tensor/Module.cuda and .to('cuda') (a Module is copied, as a real move would), torch.load's
map_location, nccl by gloo, DistributedDataParallel's device arguments, SyncBatchNorm's conversion (world size 1), cuda
autocast and GradScaler. Third-party packages that are not installed are stood in for by empty modules: enough to import
the hosts, which load every model they have, and to run their pose models.
"""

import importlib.machinery
import importlib.util
import os
import runpy
import socket
import sys
import types

import torch
import torch.distributed as dist
from torch import nn


def _is_cuda(d):
    return (isinstance(d, torch.device) and d.type == "cuda") or (isinstance(d, str) and d.startswith("cuda"))


def _free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def patch_torch():
    env = dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(_free_port()), RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
    for key, value in env.items():
        os.environ.setdefault(key, value)

    cuda = torch.cuda
    cuda.set_device = lambda *a, **k: None
    cuda.current_device = lambda: 0
    cuda.device_count = lambda: 1
    cuda.manual_seed_all = lambda *a, **k: None
    cuda.amp.autocast = lambda enabled=True, **k: torch.autocast("cpu", enabled=enabled)
    cuda.amp.GradScaler = lambda *a, **k: torch.amp.GradScaler("cpu", *a, **k)

    tensor_to, module_to, load = torch.Tensor.to, nn.Module.to, torch.load
    init, ddp_init = dist.init_process_group, nn.parallel.DistributedDataParallel.__init__

    def _tensor_to(self, *a, **k):
        named = {n: "cpu" if _is_cuda(x) else x for n, x in k.items()}
        return tensor_to(self, *["cpu" if _is_cuda(x) else x for x in a], **named)

    def _module_copy(self, *a, **k):
        return self._apply(lambda t: t.clone())

    def _module_to(self, *a, **k):
        cuda_asked = any(map(_is_cuda, a)) or _is_cuda(k.get("device"))
        return _module_copy(self) if cuda_asked else module_to(self, *a, **k)

    def _load(f, map_location=None, **k):
        return load(f, map_location="cpu" if _is_cuda(map_location) else map_location, **k)

    def _ddp_init(self, module, device_ids=None, output_device=None, **k):
        ddp_init(self, module, **k)

    torch.Tensor.cuda = lambda self, *a, **k: self
    torch.Tensor.to = _tensor_to
    nn.Module.cuda = _module_copy
    nn.Module.to = _module_to
    torch.load = _load
    dist.init_process_group = lambda backend=None, *a, **k: init("gloo" if backend == "nccl" else backend, *a, **k)
    nn.parallel.DistributedDataParallel.__init__ = _ddp_init
    nn.SyncBatchNorm.convert_sync_batchnorm = classmethod(lambda cls, module, process_group=None: module)


class _Absent(types.ModuleType):
    """A module that is not installed: importable, with a do-nothing class under every name."""

    __path__ = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (nn.Module,), {"__module__": self.__name__})


class _AbsentFinder:
    """Stands in for packages the hosts import for models that are not used here."""

    known = ("torchvision", "lightly", "transformers", "xformers", "fvcore", "timm", "einops", "cv2", "imageio",
             "sklearn", "matplotlib", "kornia")
    names = {n for n in known if importlib.util.find_spec(n) is None}

    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        if fullname.split(".")[0] in cls.names:
            return importlib.machinery.ModuleSpec(fullname, cls, is_package=True)
        return None

    @staticmethod
    def create_module(spec):
        return _Absent(spec.name)

    @staticmethod
    def exec_module(module):
        if module.__name__ == "torchvision.transforms":
            module.Compose = _Compose
        if module.__name__ == "torchvision.utils":
            module.make_grid = lambda x, **k: x[0] if getattr(x, "ndim", 0) == 4 else x


class _Compose:
    def __init__(self, transforms):
        self.transforms = transforms

    def __call__(self, x):
        for t in self.transforms:
            x = t(x)
        return x


def find_package(home):
    for name in ("fastposegait", "opengait"):
        if os.path.isfile(os.path.join(home, name, "main.py")):
            return name
    sys.exit(f"{home}: neither fastposegait/main.py nor opengait/main.py stands there")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    home = os.path.abspath(sys.argv[1])
    package = find_package(home)
    patch_torch()
    sys.meta_path.append(_AbsentFinder)
    os.chdir(home)
    sys.path[0] = os.path.join(home, package)
    main = os.path.join(home, package, "main.py")
    sys.argv = [main, *sys.argv[2:]]
    runpy.run_path(main, run_name="__main__")
