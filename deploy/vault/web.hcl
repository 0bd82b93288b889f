# Rights of web servers: register a device (write its first version), rotate its key (read the newest version, whose
# broker password stays, and write one more), hand a key over (read it into a single-use token). Only workers destroy
# or remove secrets.
path "gwanje/data/tenants/+/devices/+" {
  capabilities = ["create", "update", "read"]
}

path "auth/token/lookup-self" {
  capabilities = ["read"]
}
path "auth/token/renew-self" {
  capabilities = ["update"]
}
