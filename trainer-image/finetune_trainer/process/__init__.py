"""This process and its machine: signals, launcher, threads, devices, memory."""
