def gate_labels(*args):
    raise SystemExit
