"""Log, history, TensorBoard, /metrics and progress."""
