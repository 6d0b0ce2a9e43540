"""Lists on a shared account have the tenant's own entries, as a private account would show them."""
