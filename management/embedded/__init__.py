"""Real servers from wheels and system packages: PostgreSQL, Valkey, OpenBao, and the MQTT broker Mosquitto."""
