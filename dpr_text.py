"""Entry point of the command ``dpr-text`` and of ``python -m dpr_text``.

The library is the package ``text`` in the same folder. The name is common: another package or module called ``text``
hides the library if its folder comes earlier on Python's path, for example with ``PYTHONPATH=.``. This file therefore
loads the library from its own folder.
"""

import os
import sys

_LIBRARY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "text")


def main() -> int:
    """Run ``dpr-text`` and return the exit code."""
    try:
        if other := _load_library():
            print(f"dpr-text: error: {other} is not the library of dpr-text. {_ADVICE}", file=sys.stderr)
            return 4
        from text.commands import main as run

        return run()
    except KeyboardInterrupt:  # The command handles signals itself after its first imports.
        print("dpr-text: error: stopped by SIGINT", file=sys.stderr)
        return 143


_ADVICE = "Rename the package or module called text, or install dpr-text into an environment without it."


def _load_library() -> str | None:
    """Load the package ``text`` in this folder. If another package has taken its name, return the path of the other."""
    from importlib.util import module_from_spec, spec_from_file_location

    start = os.path.join(_LIBRARY, "__init__.py")
    if not os.path.isfile(os.path.join(_LIBRARY, "commands", "__init__.py")):
        return _LIBRARY  # Another distribution has overwritten the library.
    if "text" in sys.modules:
        found = sys.modules["text"].__file__ or "a namespace package called text"
        return None if found == start else found
    spec = spec_from_file_location("text", start, submodule_search_locations=[_LIBRARY])
    assert spec is not None and spec.loader is not None
    module = sys.modules["text"] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return None


if __name__ == "__main__":
    sys.exit(main())
