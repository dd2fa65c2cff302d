"""Toto in the form that other frameworks expect: one module for each framework.

No framework is imported before its module is imported. If a framework is not installed, the error
names the package to install. docs/frameworks.md has a recipe for each framework.
"""
