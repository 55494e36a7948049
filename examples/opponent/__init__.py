"""Game opponent: what will this player do next, and what beats it?"""
