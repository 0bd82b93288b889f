# Rights of the listener: read the secrets of devices, one at a time, and renew its own token.
path "gwanje/data/tenants/+/devices/+" {
  capabilities = ["read"]
}

path "auth/token/lookup-self" {
  capabilities = ["read"]
}
path "auth/token/renew-self" {
  capabilities = ["update"]
}
