"""The clients in other languages that come with trafficlight: their drivers, and how to build them."""
