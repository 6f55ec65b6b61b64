"""What configs use of ml_collections, for benchmarks/gpu.py on machines without it. The real one goes first where it is
installed; tests/benchmarks/test_gpu.py holds that both give the same recipes."""


class FieldReference:
    """A value; that its type is checked is left out."""

    def __init__(self, value, field_type=None):
        self.value = value


class ConfigDict:
    """A nested mapping whose keys are attributes."""

    def __init__(self, initial=None):
        object.__setattr__(self, "_fields", {})
        for key, value in (initial or {}).items():
            self[key] = value

    def __setitem__(self, key, value):
        value = value.value if isinstance(value, FieldReference) else value
        self._fields[key] = ConfigDict(value) if isinstance(value, dict) else value

    def __getitem__(self, key):
        return self._fields[key]

    def __setattr__(self, name, value):
        self[name] = value

    def __getattr__(self, name):
        if name.startswith("_") or name not in self._fields:
            raise AttributeError(name)
        return self._fields[name]

    def __getstate__(self):
        return self._fields

    def __setstate__(self, fields):
        object.__setattr__(self, "_fields", fields)

    def __contains__(self, key):
        return key in self._fields

    def __iter__(self):
        return iter(self._fields)

    def __len__(self):
        return len(self._fields)

    def keys(self):
        return self._fields.keys()

    def values(self):
        return self._fields.values()

    def items(self):
        return self._fields.items()

    def update(self, *others, **more):
        for key, value in (pair for other in (*others, more) for pair in other.items()):
            if key in self and isinstance(self[key], ConfigDict) and isinstance(value, dict | ConfigDict):
                self[key].update(value)
            else:
                self[key] = value

    def update_from_flattened_dict(self, flat):
        for dotted, value in flat.items():
            *path, last = dotted.split(".")
            section = self
            for name in path:
                section = section[name]
            section[last] = value

    def to_dict(self):
        return {key: value.to_dict() if isinstance(value, ConfigDict) else value for key, value in self.items()}
