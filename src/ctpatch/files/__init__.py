"""Bytes on disk: whole or not at all, durable, digested, found below their root."""
