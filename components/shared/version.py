"""The one place that names Shutterline's version."""

__version__ = "0.12.0"
