"""Recipes as Python files: `get_config(arg)` returns a ConfigDict."""
