#!/usr/bin/env bash
# Makes the certificates and keys beside it, which tests of TLS read: two authorities, what they sign, and a key with a
# password. They are good for nothing else: everybody has the keys. Valid from 2000 to 2125; needs openssl 3.
set -euo pipefail
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat >"$work/ca.cnf" <<'END'
[ca]
default_ca = test
[test]
database = $ENV::WORK/index
serial = $ENV::WORK/serial
new_certs_dir = $ENV::WORK
default_md = sha256
policy = names
unique_subject = no
[names]
commonName = supplied
[req]
distinguished_name = names
prompt = no
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
subjectAltName = DNS:localhost, IP:127.0.0.1, IP:::1
extendedKeyUsage = serverAuth
[client]
basicConstraints = critical, CA:FALSE
extendedKeyUsage = clientAuth
END
export WORK="$work"
: >"$work/index"
echo 1000 >"$work/serial"

# NAME, the section with its extensions, and further arguments: who signs.
certificate() {
  local name=$1 kind=$2
  shift 2
  openssl genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$work/$name.key"
  openssl req -new -config "$work/ca.cnf" -key "$work/$name.key" -subj "/CN=trtc test $name" -out "$work/$name.csr"
  openssl ca -config "$work/ca.cnf" -batch -notext -extensions "$kind" -in "$work/$name.csr" -out "$name.pem" \
    -startdate 20000101000000Z -enddate 21250101000000Z "$@" 2>/dev/null
}

for authority in authority other-authority; do
  certificate "$authority" authority -selfsign -keyfile "$work/$authority.key"
done
signed() {
  certificate "$1" "$2" -cert "$3.pem" -keyfile "$work/$3.key"
  cp "$work/$1.key" "$1.key"
}
signed server server authority
signed renewed server authority
signed client client authority
signed stranger client other-authority
openssl pkcs8 -topk8 -in server.key -passout pass:test -out encrypted.key
chmod 644 ./*.key
