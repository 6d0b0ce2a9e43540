"""`gateway top`: what gateways do, live in the terminal. From `/gateway/state` of their private listeners, no more."""
