"""Toto in the form that other frameworks expect: one module for each framework.

Each module imports its framework at the first use of its class. If the framework is not installed,
the error names the package to install.
"""
