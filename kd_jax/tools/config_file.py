"""The flag --config=FILE.py[:ARGUMENT]: the file is executed once, and its configuration changed by --config.KEY."""

import importlib.util
import os
from types import ModuleType

from absl import flags

from kd_jax.config import error_in, override
from kd_jax.typing import InputError

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
        raise InputError(f"--config: {error_in(path, e)}") from e
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
