"""The simulation: scenes as data, the `Simulator` protocol, and its MuJoCo backend."""
