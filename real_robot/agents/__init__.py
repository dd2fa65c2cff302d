"""Agents that choose the actions of an arm: trained policies, local or remote, and the expert."""
