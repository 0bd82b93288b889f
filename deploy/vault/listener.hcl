# What the listener may do: read the secrets of devices, one at a time, and keep its own token alive.
path "gwanje/data/tenants/+/devices/+" {
  capabilities = ["read"]
}

path "auth/token/lookup-self" {
  capabilities = ["read"]
}
path "auth/token/renew-self" {
  capabilities = ["update"]
}
