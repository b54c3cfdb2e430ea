"""The paper in one room: Algorithm 1, its losses and constraints, random numbers. Nothing here knows of training."""
