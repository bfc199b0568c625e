"""The one place that names Shutterline's version."""

__version__ = "0.11.0"
