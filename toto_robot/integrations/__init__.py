"""Toto in the form that other frameworks expect: one module for each framework.

A framework is imported only if its module, or the class in it, is used. If the framework is not
installed, the error names the package to install. docs/frameworks.md has a recipe for each.
"""
