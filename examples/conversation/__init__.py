"""Conversation: which of these replies does this user like, given this message?"""
