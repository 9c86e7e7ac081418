"""How patches lie on disk. Four writers, one reader.

Every patch has an address: a file, an item in it where the file holds many, a window in that item where it holds
whole slices. A writer returns the addresses of what it wrote; the reader needs nothing else.
"""
