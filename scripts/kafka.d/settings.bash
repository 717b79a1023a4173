# Sourced by scripts/kafka: writes what a broker is configured by, that is its properties, the settings
# of its log, certificates and the key of tokens. Must start or stop nothing.
# shellcheck shell=bash disable=SC2154,SC2034,SC2317  # variables and calls are in scripts/kafka

write_settings() {
  local data_dir=$dir/data security=org.apache.kafka.common.security
  local scram_module=$security.scram.ScramLoginModule
  local plain_module=$security.plain.PlainLoginModule
  local oauth=$security.oauthbearer listener=
  local listeners=PLAINTEXT://127.0.0.1:$port roles=broker id=2
  local advertised=PLAINTEXT://localhost:$port
  local voters=1@127.0.0.1:$controller_port nodes="one node" copies=1 least=1
  if [ -z "$join" ]; then
    listeners+=,CONTROLLER://127.0.0.1:$controller_port roles=broker,controller id=1
  fi
  if [ -n "$node" ]; then
    id=$node voters=$(cluster_voters) nodes="three nodes, of which one may be away" copies=3 least=2
  fi
  if $tls; then
    listeners+=,SSL://127.0.0.1:$((port + 2))
    listeners+=,SASL_SSL://127.0.0.1:$((port + 3)),SASL_PLAINTEXT://127.0.0.1:$((port + 4))
    advertised+=,SSL://localhost:$((port + 2))
    advertised+=,SASL_SSL://localhost:$((port + 3)),SASL_PLAINTEXT://localhost:$((port + 4))
  fi
  [ -z "$node" ] || advertised=$(cluster_advertised "$advertised")
  cat <<END
process.roles=$roles
node.id=$id
controller.quorum.voters=$voters
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listeners=$listeners
advertised.listeners=$advertised
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_SSL:SASL_SSL,SASL_PLAINTEXT:SASL_PLAINTEXT
log.dirs=$data_dir

# $nodes
default.replication.factor=$copies
min.insync.replicas=$least
offsets.topic.replication.factor=$copies
transaction.state.log.replication.factor=$copies
transaction.state.log.min.isr=$least
share.coordinator.state.topic.replication.factor=$copies
share.coordinator.state.topic.min.isr=$least

# few partitions and small buffers: it starts fast
num.partitions=4
offsets.topic.num.partitions=8
transaction.state.log.num.partitions=8
share.coordinator.state.topic.num.partitions=8
log.cleaner.dedupe.buffer.size=16777216

auto.create.topics.enable=true
group.initial.rebalance.delay.ms=0
# lets tests see a lost member soon; a client that does not ask for it is not touched
group.min.session.timeout.ms=1000
# ... the consumer protocol's clients cannot ask for it
group.consumer.min.session.timeout.ms=1000
group.consumer.session.timeout.ms=6000
group.consumer.min.heartbeat.interval.ms=100
group.consumer.heartbeat.interval.ms=200
broker.heartbeat.interval.ms=500
END
  # After a crash the controller waits until the dead broker's session is over before it lets the
  # new one in; in a cluster that controller is another node, and elects new leaders then.
  if [ -n "$node" ]; then
    echo broker.session.timeout.ms=6000
  elif [ -f "$data_dir/meta.properties" ] && [ ! -f "$data_dir/.kafka_cleanshutdown" ]; then
    echo broker.session.timeout.ms=2000
  fi
  ! $tls || cat <<END

ssl.keystore.type=PEM
ssl.keystore.location=$tls_dir/server.pem
ssl.truststore.type=PEM
ssl.truststore.location=$tls_dir/ca.crt
ssl.client.auth=requested
sasl.oauthbearer.expected.audience=moonbus
sasl.oauthbearer.expected.issuer=moonbus-tests
sasl.oauthbearer.jwks.endpoint.url=file://$tls_dir/jwks.json
sasl.oauthbearer.jwt.validator.class=$oauth.BrokerJwtValidator
END
  ! $tls || for listener in listener.name.sasl_ssl listener.name.sasl_plaintext; do
    cat <<END
$listener.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER
$listener.plain.sasl.jaas.config=$plain_module required user_$user="$password";
$listener.scram-sha-256.sasl.jaas.config=$scram_module required;
$listener.scram-sha-512.sasl.jaas.config=$scram_module required;
$listener.oauthbearer.sasl.jaas.config=$oauth.OAuthBearerLoginModule required;
$listener.oauthbearer.sasl.server.callback.handler.class=$oauth.OAuthBearerValidatorCallbackHandler
END
  done
  [ ! -f "$own_settings" ] || cat "$own_settings"
}

write_log_settings() {
  cat <<END
status=error
appender.file.type=RollingFile
appender.file.name=file
appender.file.fileName=$log
appender.file.filePattern=$log.%i
appender.file.layout.type=PatternLayout
appender.file.layout.pattern=%d{yyyy-MM-dd HH:mm:ss.SSS} %-5p %c{1}: %m%n
appender.file.policies.type=Policies
appender.file.policies.size.type=SizeBasedTriggeringPolicy
appender.file.policies.size.size=20MB
appender.file.strategy.type=DefaultRolloverStrategy
appender.file.strategy.max=2
rootLogger.level=info
rootLogger.appenderRef.file.ref=file
END
}

# A certificate authority of our own, and one certificate each for broker and client.
make_certificates() (
  umask 077
  rm -rf "$tls_dir.new"
  mkdir -p "$tls_dir.new"
  cd "$tls_dir.new" || exit
  key() { openssl genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1" 2>/dev/null ||
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1" 2>/dev/null; }
  sign() { # name, extended key usage, alternative names
    key "$1.key"
    openssl req -new -key "$1.key" -subj "/CN=$1" -out "$1.csr"
    printf '%s\n' "basicConstraints=critical,CA:FALSE" "keyUsage=critical,digitalSignature" \
      "extendedKeyUsage=$2" "subjectAltName=$3" >"$1.ext"
    openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 \
      -extfile "$1.ext" -out "$1.crt" 2>/dev/null
    rm "$1.csr" "$1.ext"
  }
  key ca.key
  openssl req -x509 -new -key ca.key -days 3650 -subj "/CN=moonbus test authority" \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign -out ca.crt
  sign server serverAuth,clientAuth DNS:localhost,IP:127.0.0.1
  sign client clientAuth DNS:moonbus
  cat server.key server.crt ca.crt >server.pem
  mv "$tls_dir.new" "$tls_dir"
)

# The key that signs access tokens, and its public half as brokers read it: a set of JSON web keys.
make_token_key() (
  umask 077
  cd "$tls_dir" || exit
  base64url() { base64 -w 0 | tr '+/' '-_' | tr -d '='; }
  openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out token.key 2>/dev/null
  modulus=$(openssl rsa -in token.key -noout -modulus | sed 's/^Modulus=//; s/../\\x&/g')
  # shellcheck disable=SC2059  # the format is the modulus, each byte as \xHH
  printf '{"keys":[{"kty":"RSA","kid":"moonbus","use":"sig","alg":"RS256","e":"AQAB","n":"%s"}]}\n' \
    "$(printf "$modulus" | base64url)" >jwks.json.new
  mv jwks.json.new jwks.json
)
