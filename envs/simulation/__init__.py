"""The simulation: data classes of scenes, the `Simulator` protocol, and its MuJoCo backend."""
