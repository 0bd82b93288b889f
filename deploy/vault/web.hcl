# What people do in the console and over the API: a device is registered (its first version is written), its key is
# rotated (the newest is read, whose broker password stays, and a version more is written), a key is handed over (read
# into a single-use token). Nothing here destroys or removes a secret: workers do.
path "gwanje/data/tenants/+/devices/+" {
  capabilities = ["create", "update", "read"]
}

path "auth/token/lookup-self" {
  capabilities = ["read"]
}
path "auth/token/renew-self" {
  capabilities = ["update"]
}
