# Rights to register, rotate and remove devices. A rotation writes a new version of the secret; an old version is
# destroyed when it is no longer valid; removing a device removes its versions and their metadata.
path "gwanje/data/tenants/+/devices/+" {
  capabilities = ["create", "update", "read", "delete"]
}
path "gwanje/destroy/tenants/+/devices/+" {
  capabilities = ["create", "update"]
}
path "gwanje/metadata/tenants/+/devices/+" {
  capabilities = ["create", "update", "read", "delete"]
}
# Removing a tenant needs the list of its devices.
path "gwanje/metadata/tenants/+/devices/" {
  capabilities = ["list"]
}

path "auth/token/lookup-self" {
  capabilities = ["read"]
}
path "auth/token/renew-self" {
  capabilities = ["update"]
}
