"""A tiny class-conditional diffusion model that draws icons: something real to accelerate in seconds on a CPU."""
