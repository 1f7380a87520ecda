"""The compiled convolution's file: found, refused with one warning, chosen; and what runs say."""

from __future__ import annotations

import ctypes
import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import jax
import pytest
from commandline import command

from fedjax_kd.commands import run
from fedjax_kd.errors import InputError, SharpEdge, collected_warnings
from fedjax_kd.nn.native import library
from fedjax_kd.nn.native.library import CONVOLUTION, TARGETS, Outcome, load_code
from fedjax_kd.runs import provenance
from fedjax_kd.runs.build import warned_build
from fedjax_kd.runs.config import Config, TrainingConfig

COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
NAME = f"_convolution{EXTENSION_SUFFIXES[0]}"
# With the interface of the real code, and nothing behind it.
SOURCE = """
void *fedjax_kd_conv_forward(void *call) { return call; }
void *fedjax_kd_conv_input(void *call) { return call; }
void *fedjax_kd_conv_kernel(void *call) { return call; }
const char *fedjax_kd_conv_build(void) { return "abi=1;ffi=0.3"; }
int fedjax_kd_conv_sets(void) { return 3; }
int used = 2;
int fedjax_kd_conv_use(int set) { return used = set ? set : 2; }
"""

Make = Callable[[str], Path]


@pytest.fixture
def made(tmp_path: Path) -> Make:
    """Compiles a source as the file that is looked for; gives its folder."""
    if COMPILER is None or sys.platform == "win32":
        pytest.skip("there is no C compiler")

    def make(source: str) -> Path:
        written = tmp_path / "code.c"
        written.write_text(source)
        subprocess.run([COMPILER, "-shared", "-fPIC", "-o", tmp_path / NAME, written], check=True)
        return tmp_path

    return make


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What was given to XLA by name and platform, which it does not get here."""
    names: list[tuple[str, str]] = []
    monkeypatch.setattr(
        jax.ffi, "register_ffi_target", lambda name, _, *, platform: names.append((name, platform))
    )
    return names


@pytest.fixture
def anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """As in a process that has not looked for the code yet, before and after the test."""

    def forget() -> None:
        library._here.cache_clear()
        library._warn_once.cache_clear()

    forget()
    with monkeypatch.context() as patched:
        yield patched
    forget()


def refused(outcome: Outcome, text: str) -> None:
    """The outcome is products, and a warning that says why and what to do."""
    assert outcome.instruction_set is None
    assert text in outcome.warning
    assert f"{CONVOLUTION}=products" in outcome.warning


def test_the_best_instruction_set_is_used(made: Make, registered: list[tuple[str, str]]):
    assert load_code(made(SOURCE), "") == Outcome("avx2")
    assert registered == [(name, "cpu") for name in TARGETS]


@pytest.mark.parametrize(("asked", "bit"), [("native", 2), ("avx2", 2), ("plain", 1)])
def test_an_instruction_set_that_is_asked_for(
    made: Make, registered: list[tuple[str, str]], asked: str, bit: int
):
    folder = made(SOURCE)
    expected = "avx2" if asked == "native" else asked
    assert load_code(folder, asked) == Outcome(expected)
    assert ctypes.c_int.in_dll(ctypes.CDLL(str(folder / NAME)), "used").value == bit


def test_an_instruction_set_that_the_processor_lacks(made: Make):
    with pytest.raises(InputError, match="has avx2, plain on this processor"):
        load_code(made(SOURCE), "avx512")


def test_an_old_processor(made: Make, registered: list[tuple[str, str]]):
    folder = made(SOURCE.replace("return 3;", "return 1;").replace(": 2;", ": 1;"))
    refused(load_code(folder, ""), "neither AVX2 with FMA nor NEON")
    assert not registered
    assert load_code(folder, "plain") == load_code(folder, "native") == Outcome("plain")


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("abi=1", "abi=2", "has interface 2, but this version of fedjax_kd needs 1"),
        ("abi=1;ffi=0.3", "3", "has interface None"),
        ('"abi=1;ffi=0.3"', "0", "has interface None"),
        ("fedjax_kd_conv_use", "other_use", "lacks fedjax_kd_conv_use"),
        ("fedjax_kd_conv", "another", "lacks fedjax_kd_conv_forward"),
    ],
)
def test_a_library_of_another_version_or_program(
    made: Make, registered: list[tuple[str, str]], before: str, after: str, said: str
):
    refused(load_code(made(SOURCE.replace(before, after)), ""), said)
    assert not registered


def test_a_library_that_ends_the_process(made: Make):
    crash = "__attribute__((constructor)) void crash(void) { __builtin_trap(); }"
    refused(load_code(made(SOURCE + crash), ""), "is damaged. Build it anew")


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.3, 0.6, 0.9])
def test_a_library_that_was_cut_short(made: Make, registered: list[tuple[str, str]], kept: float):
    file = made(SOURCE + "char filling[1 << 20] = {1};") / NAME
    whole = file.read_bytes()
    file.unlink()  # else pages that are mapped already would be cut, too
    file.write_bytes(whole[: int(kept * len(whole))])
    refused(load_code(file.parent, ""), "is damaged")
    assert not registered


@pytest.mark.skipif(sys.platform != "linux", reason="the header of another format")
def test_a_library_of_another_processor(made: Make):
    file = made(SOURCE) / NAME
    content = bytearray(file.read_bytes())
    content[18:20] = b"\xf3\x00"  # RISC-V
    file.unlink()
    file.write_bytes(content)
    refused(load_code(file.parent, ""), "is damaged or of another system")


def test_a_file_that_is_no_library(tmp_path: Path):
    (tmp_path / NAME).write_text("no code")
    refused(load_code(tmp_path, ""), "is damaged or of another system")
    with pytest.raises(InputError, match=f"{CONVOLUTION} is 'native', but .* is damaged"):
        load_code(tmp_path, "native")
    assert load_code(tmp_path, "products") == Outcome(None, f"{CONVOLUTION} says so")


def test_what_another_jaxlib_was_built_for(made: Make, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, platform: str) -> None:
        raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: API version is incompatible")

    monkeypatch.setattr(jax.ffi, "register_ffi_target", refuse)
    outcome = load_code(made(SOURCE.replace("ffi=0.3", "ffi=9.9")), "")
    refused(outcome, f"jaxlib {jax.lib.__version__} refuses")
    assert "built for version 9.9 of its interface" in outcome.warning


def test_no_library(tmp_path: Path):
    assert load_code(tmp_path, "") == Outcome(None, "no compiled code was installed with fedjax_kd")
    with pytest.raises(InputError, match=r"'avx2', but .* none was installed"):
        load_code(tmp_path, "avx2")


def test_a_choice_that_is_none(tmp_path: Path):
    with pytest.raises(InputError, match="'onednn', but must be one of native, products, avx512"):
        load_code(tmp_path, "onednn")


def test_the_real_library():
    folder = Path(library.__file__).parent
    if not any((folder / f"_convolution{suffix}").exists() for suffix in EXTENSION_SUFFIXES):
        pytest.skip("the package was installed without its native code")
    assert load_code(folder, "native").instruction_set in library.INSTRUCTION_SETS


def test_one_warning_which_every_run_keeps(anew: pytest.MonkeyPatch):
    anew.setattr(library, "load_code", lambda *_: Outcome(None, "it is damaged", "Build it anew."))
    config = Config("fedavg", model="logistic", training=TrainingConfig(num_rounds=1))
    with pytest.warns(SharpEdge) as told:
        kept = [warned_build(config)[1] for _ in range(2)]
    assert [str(warning.message) for warning in told] == ["Build it anew."]
    assert kept == [["Build it anew."]] * 2
    assert library.description() == "products"


def test_a_convolution_warns_outside_of_runs(anew: pytest.MonkeyPatch):
    anew.setattr(library, "load_code", lambda *_: Outcome(None, "it is damaged", "Build it anew."))
    with collected_warnings() as told:
        assert [library.is_available() for _ in range(2)] == [False, False]
    assert told == ["Build it anew."]


def test_a_run_says_which_convolution_it_takes(
    anew: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
):
    anew.setattr(library, "load_code", lambda *_: Outcome(None, "none was installed"))
    anew.setattr(run, "finish_runs", lambda *_, **__: 0)  # nothing is trained
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # to have none is no fault
        assert command("run", "fedavg", "--model", "logistic", "--out", str(tmp_path / "run")) == 0
    assert "convolutions: products, since none was installed\n" in capsys.readouterr().err
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record["environment"]["convolution"] == "products"
    assert record["warnings"] == []
    elsewhere = {"environment": record["environment"] | {"convolution": "native (neon)"}}
    provenance.warn_of_versions(tmp_path, elsewhere)
    assert "with convolution native (neon), but here are convolution products" in (
        capsys.readouterr().err
    )


def test_a_run_refuses_a_wrong_choice(
    anew: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
):
    anew.setenv(CONVOLUTION, "onednn")
    assert command("run", "fedavg", "--model", "logistic", "--out", str(tmp_path / "run")) == 2
    assert f"{CONVOLUTION} is 'onednn', but must be one of" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
