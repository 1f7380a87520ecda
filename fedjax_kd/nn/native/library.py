"""TEMPORARY."""
import ctypes, functools, os
import jax
TARGETS = ("fedjax_kd_conv_forward", "fedjax_kd_conv_input", "fedjax_kd_conv_kernel")
@functools.cache
def _load():
    path = os.environ.get("CONV_SO")
    if not path or os.environ.get("FEDJAX_KD_CONVOLUTION") == "products":
        return None
    lib = ctypes.CDLL(path)
    for n in TARGETS:
        jax.ffi.register_ffi_target(n, jax.ffi.pycapsule(getattr(lib, n)), platform="cpu")
    s = os.environ.get("CONV_SET")
    if s: assert lib.fedjax_kd_conv_use(int(s))
    return lib
def is_available(): return _load() is not None
def description(): return "native" if is_available() else "products"
