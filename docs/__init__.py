"""The documents, and what keeps the generated parts of them current."""
