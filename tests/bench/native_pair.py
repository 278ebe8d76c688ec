def measure(bench, where):
    pass
