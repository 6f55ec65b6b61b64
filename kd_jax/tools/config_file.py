"""The flag --config=FILE.py[:ARGUMENT]: the file is executed once, and its configuration changed by --config.KEY."""

import importlib.util
import os
from types import ModuleType

from absl import flags

from kd_jax.config import error_in, override
from kd_jax.config.overrides import OVERRIDE
from kd_jax.typing import InputError

flags.disclaim_key_flags()  # --help shows the flag among those of the command


class ConfigFlag:
    """--config=FILE.py[:ARGUMENT] and its --config.KEY=VALUE. value: the ConfigDict, None until `take`. spelled: the
    file and its argument. changes: the arguments --config.KEY=VALUE."""

    def __init__(self, *, optional: bool = False):
        """optional: whether --config may be missing; then `changes` are for configurations that are found elsewhere."""
        self._optional = optional
        flags.DEFINE_string("config", None, "FILE.py[:ARGUMENT]; --config.KEY=VALUE changes what stands in it")
        self.value, self.spelled, self.changes = None, "", ()

    def take(self, arguments: list[str]) -> list[str]:
        """Read the configuration that a command line names, with all that it changes.

        Returns:
          The arguments without --config.KEY.

        Raises:
          InputError: a file that does not give a configuration, an unknown key, a wrong value.
        """
        spelled = ""
        for argument, following in zip(arguments, [*arguments, ""][1:], strict=True):
            name, given, text = argument.partition("=")
            if name in ("--config", "-config"):
                spelled = text if given else following
        if not spelled and self._optional:
            self.changes = tuple(argument for argument in arguments if OVERRIDE.fullmatch(argument))
            return [argument for argument in arguments if argument not in self.changes]
        if not spelled:
            return arguments
        self.value, self.spelled = load(spelled), spelled
        self.value.lock()
        rest = override(self.value, arguments)
        changes, others = [], list(rest)
        for argument in arguments:
            if others and argument is others[0]:
                others.pop(0)
            else:
                changes.append(argument)
        self.changes = tuple(changes)
        return rest


def load(spelled: str):
    """The configuration of FILE.py[:ARGUMENT].

    Raises:
      InputError: no such file, or one without get_config; what the file itself raises, with its name and the line.
    """
    path, _, argument = spelled.partition(":")
    if not os.path.isfile(path):
        raise InputError(f"--config: no file {path}; give FILE.py or FILE.py:ARGUMENT")
    try:
        get_config = getattr(load_module(path), "get_config", None)
        if get_config is None:
            raise InputError(f"--config: {path} has no function get_config")
        config = get_config(argument) if argument else get_config()
    except InputError:
        raise
    except (Exception, SystemExit) as e:
        raise InputError(f"--config: {error_in(path, e)}") from e
    if not hasattr(config, "lock"):
        raise InputError(f"--config: get_config of {path} returns a {type(config).__name__}, not a ConfigDict")
    return config


def load_module(path: str) -> ModuleType:
    """A Python file, executed.

    Raises:
      InputError: it is none. What the file raises passes.
    """
    spec = importlib.util.spec_from_file_location("config_file", path)
    if spec is None:
        raise InputError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
