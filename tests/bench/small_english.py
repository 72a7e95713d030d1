def compare(folder):
    return []
