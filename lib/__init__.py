"""Few labels or none: VLM-CPL and UniSAL on histopathology tiles."""

if not __debug__:  # notebooks and this library check with `assert` what must hold
    raise SystemExit("error: Python runs without its checks: unset PYTHONOPTIMIZE, leave out -O")
