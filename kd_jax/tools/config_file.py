"""The flag --config=FILE.py[:ARGUMENT]: the file is executed once, and its configuration changed by --config.KEY."""

import importlib.util
import os
import traceback
from types import ModuleType

from absl import flags

from kd_jax.config import override
from kd_jax.typing import InputError, first_line

flags.disclaim_key_flags()  # --help shows the flag among those of the command


class ConfigFlag:
    """--config=FILE.py[:ARGUMENT] and its --config.KEY=VALUE. value: the ConfigDict, None until `take`."""

    def __init__(self):
        flags.DEFINE_string("config", None, "FILE.py[:ARGUMENT]; --config.KEY=VALUE changes what stands in it")
        self.value = None

    def take(self, arguments: list[str]) -> list[str]:
        """Read the configuration that a command line names, with all that it changes.

        Returns:
          The arguments without --config.KEY.

        Raises:
          InputError: a file that does not give a configuration, an unknown key, a wrong value.
        """
        spelled = ""
        for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
            name, given, text = argument.partition("=")
            if name in ("--config", "-config"):
                spelled = text if given else following
        if not spelled:
            return arguments
        self.value = load(spelled)
        self.value.lock()
        return override(self.value, arguments)


def load(spelled: str):
    """The configuration of FILE.py[:ARGUMENT].

    Raises:
      InputError: no such file, or one without get_config; what the file itself raises, with its name and the line.
    """
    path, _, argument = spelled.partition(":")
    if not os.path.isfile(path):
        raise InputError(f"--config: no file {path}; give FILE.py or FILE.py:ARGUMENT")
    try:
        get_config = getattr(_module(path), "get_config", None)
        if get_config is None:
            raise InputError(f"--config: {path} has no function get_config")
        config = get_config(argument) if argument else get_config()
    except InputError:
        raise
    except Exception as e:
        message = f"{type(e).__name__}: {first_line(e)}"
        raise InputError(f"--config: {_place(path, e)}: {message} (KD_JAX_DEBUG=1 shows where it comes from)") from e
    if not hasattr(config, "lock"):
        raise InputError(f"--config: get_config of {path} returns a {type(config).__name__}, not a ConfigDict")
    return config


def _module(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("config_file", path)
    if spec is None:
        raise InputError(f"--config: {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _place(path: str, error: Exception) -> str:
    """The file and line that an error is about: of wrong syntax, or the last one of the config file itself."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    here = os.path.realpath(path)
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if os.path.realpath(f.filename) == here]
    return f"{path}, line {lines[-1]}" if lines else path
