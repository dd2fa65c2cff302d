"""The simulation: data classes of scenes, the `Simulator` protocol, and the MuJoCo simulator."""
