"""Conversations: rows to messages, messages to text by a chat template, text to tokens and what of them is learned."""
