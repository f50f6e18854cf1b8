# shellcheck shell=bash
# The three servers: their configuration, how each is started, asked whether it answers, and stopped.
# None of them goes through systemd or an init script: containers have neither, and a unit would use the machine's own configuration.

PUPPETSERVER_PATTERN=$STATE/puppetserver/conf.d
PUPPETDB_PATTERN=$STATE/puppetdb/conf.d
POSTGRES_PATTERN=$STATE/postgresql/data

# Where an external root CA is made, and from where it is imported.
EXTERNAL=$STATE/external

# These servers live for minutes, so starting is most of what they do. Without the optimising compiler, without verifying
# the packages' own byte code, a start takes half the processor time.
QUICK_JAVA=(-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:+UnlockDiagnosticVMOptions -XX:-BytecodeVerificationRemote)

# render TEMPLATE TARGET OWNER MODE [NAME=VALUE…]: fills @NAME@ in conf/TEMPLATE.
render() {
    local template=$1 target=$2 owner=$3 mode=$4 text pair
    shift 4
    text=$(<"$LIVE_DIR/conf/$template")
    for pair in "STATE=$STATE" "CONTROLLER=$CONTROLLER" "POSTGRES_PORT=$POSTGRES_PORT" "$@"; do
        text=${text//"@${pair%%=*}@"/"${pair#*=}"}
    done
    # The mode before the content: one of the files holds a password.
    install -o "$owner" -g "$owner" -m "$mode" /dev/null "$target"
    printf '%s\n' "$text" >"$target"
}

# as USER COMMAND…: runs without a shell or a waiting parent in between, so the process that is started is the server itself.
as() {
    local user=$1
    shift
    # nohup leaves SIGHUP ignored, and Puppet Server reloads on SIGHUP.
    setpriv --reuid "$user" --regid "$user" --init-groups -- env -i --default-signal=HUP \
        PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 HOME="$STATE" "$@"
}

# daemon USER LOG COMMAND…: in a session of its own, so that it outlives the terminal or CI step that started it.
daemon() {
    local user=$1 log=$2
    shift 2
    # 9 is the lock of `stage`: a server that inherits it would hold it for as long as it lives.
    (
        # How the server ends is for the one that waits for it to report.
        trap - ERR
        umask 027
        cd "$STATE" || exit
        as "$user" setsid "$@" </dev/null >>"$log" 2>&1 9>&- &
    )
}

# pids PATTERN: the processes that have exactly this word in their command line. The directory is the stage's own, so
# nothing else on the machine has it, and no pid file can be stale or belong to another checkout.
pids() {
    local pattern=$1 entry word
    for entry in /proc/[0-9]*; do
        # A process may end while it is looked at.
        while IFS= read -r -d '' word; do
            if [[ $word == "$pattern" ]]; then
                printf '%s\n' "${entry#/proc/}"
                break
            fi
        done 2>/dev/null <"$entry/cmdline" || true
    done
}

stop_server() {
    local name=$1 pattern=$2 signal=$3 found waited
    found=$(pids "$pattern")
    [[ -n $found ]] || return 0
    say "stopping $name (pid $(tr '\n' ' ' <<<"$found"))"
    # shellcheck disable=SC2086  # one word for each process
    kill "-$signal" $found 2>/dev/null || true
    for ((waited = 0; waited < 40; waited++)); do
        found=$(pids "$pattern")
        [[ -n $found ]] || return 0
        sleep 0.5
    done
    say "$name did not stop within 20 s: killing it"
    # shellcheck disable=SC2086
    kill -KILL $found 2>/dev/null || true
    sleep 1
}

stop_servers() {
    # The order in which they need each other. PostgreSQL: INT is the fast shutdown, which does not wait for clients.
    stop_server 'Puppet Server' "$PUPPETSERVER_PATTERN" TERM
    stop_server PuppetDB "$PUPPETDB_PATTERN" TERM
    stop_server PostgreSQL "$POSTGRES_PATTERN" INT
}

# wait_for NAME SECONDS PATTERN LOG REMEDY COMMAND…: until COMMAND succeeds; gives up early when the process is gone. On a busy machine,
# a process that was just started takes a moment until it can be found by its command line.
wait_for() {
    local name=$1 limit=$2 pattern=$3 log=$4 remedy=$5 began=$SECONDS told=0 waited found='' lived=''
    shift 5
    until "$@" >/dev/null 2>&1; do
        waited=$((SECONDS - began))
        found=$(pids "$pattern")
        [[ -z $found ]] || lived=yes
        if [[ -z $found ]] && { [[ -n $lived ]] || ((waited >= 5)); }; then
            fail "$name ended instead of starting" "$remedy" "$log"
        elif ((waited >= limit)); then
            fail "$name does not answer after $limit s" "$remedy" "$log"
        elif ((waited >= told + 10)); then
            told=$waited
            say "  $name is starting ($waited s of at most $limit s)"
        fi
        sleep 0.5
    done
    say "$name answers"
}

# answers URL: its status service says that all of it is running.
answers() {
    [[ $(curl --silent --noproxy '*' --max-time 5 --cacert "$STATE/ssl/certs/ca.pem" "$1/status/v1/simple") == running ]]
}

start_postgresql() {
    local data=$STATE/postgresql/data log=$LOGS/postgresql.log bin password
    bin=$(find /usr/lib/postgresql -maxdepth 2 -name bin | sort -V | tail -n 1)
    password=$(od -An -tx1 -N16 /dev/urandom | tr -d ' \n')
    install -d -o postgres -g postgres -m 0700 "$STATE/postgresql"
    as postgres "$bin/initdb" --pgdata "$data" --encoding UTF8 --locale C.UTF-8 --auth-local peer \
        --auth-host scram-sha-256 --no-sync >>"$log" 2>&1 ||
        fail 'PostgreSQL could not make its data directory' "see the log; is $STATE writable and not full?" "$log"
    # Nothing in it has to survive a power cut.
    daemon postgres "$log" "$bin/postgres" -D "$data" -p "$POSTGRES_PORT" -c listen_addresses=127.0.0.1 \
        -c "unix_socket_directories=$STATE/postgresql" -c shared_buffers=32MB -c fsync=off -c synchronous_commit=off \
        -c full_page_writes=off
    wait_for PostgreSQL 30 "$POSTGRES_PATTERN" "$log" "read the log, then run it again" \
        as postgres "$bin/pg_isready" --host "$STATE/postgresql" --port "$POSTGRES_PORT"
    as postgres "$bin/psql" --host "$STATE/postgresql" --port "$POSTGRES_PORT" --quiet --no-psqlrc \
        --set ON_ERROR_STOP=1 --set "password=$password" >>"$log" 2>&1 <<'SQL' ||
create role puppetdb login password :'password';
create database puppetdb owner puppetdb;
\connect puppetdb
create extension pg_trgm;
SQL
        fail 'the PuppetDB database could not be made' 'see the log' "$log"
    render puppetdb.ini "$STATE/puppetdb/conf.d/puppetdb.ini" puppetdb 0600 "POSTGRES_PASSWORD=$password"
}

# The package's rules with the controller's put in front, as an operator would do it. Own rules have a lower sort-order, so
# where they stand does not matter, but the file must have exactly one list of rules.
write_access_rules() {
    local shipped=/etc/puppet/puppetserver/conf.d/auth.conf rules=$STATE/puppetserver/controller-rules.conf
    [[ $(grep -cE '^ *rules: \[ *$' "$shipped") == 1 ]] ||
        fail "$shipped has not the one 'rules: [' line that the package's file has" \
            "restore it: apt-get install --reinstall -o Dpkg::Options::=--force-confmiss,confnew puppetserver"
    render controller-rules.conf "$rules" puppet 0640
    sed -E "/^ *rules: \[ *\$/r $rules" "$shipped" >"$STATE/puppetserver/conf.d/auth.conf"
}

write_puppetserver_configuration() {
    local directory file
    for directory in puppet ssl ca code code/environments code/environments/production \
        code/environments/production/manifests puppetserver puppetserver/conf.d puppetserver/run puppetserver/log \
        puppetserver/var; do
        install -d -o puppet -g puppet -m 0750 "$STATE/$directory"
    done
    for file in puppet.conf puppetdb.conf routes.yaml; do
        render "$file" "$STATE/puppet/$file" puppet 0640
    done
    for file in logback.xml request-logging.xml; do
        render "$file" "$STATE/puppetserver/$file" puppet 0640
    done
    render puppetserver.conf "$STATE/puppetserver/conf.d/puppetserver.conf" puppet 0640
    install -o puppet -g puppet -m 0640 /etc/puppet/puppetserver/conf.d/web-routes.conf "$STATE/puppetserver/conf.d/"
    render site.pp "$STATE/code/environments/production/manifests/site.pp" puppet 0640
    write_access_rules
    chown puppet:puppet "$STATE/puppetserver/conf.d/auth.conf"
}

make_ca() {
    local log=$LOGS/ca.log how=(setup)
    if [[ ${CA:-} == external-root ]]; then
        make_external_root
        how=(import --cert-bundle "$EXTERNAL/bundle.pem" --crl-chain "$EXTERNAL/crls.pem" --private-key "$EXTERNAL/intermediate.key")
    fi
    as puppet puppetserver ca "${how[@]}" --config "$STATE/puppet/puppet.conf" --certname localhost \
        --subject-alt-names "localhost,DNS:puppet,DNS:*.$COMPILERS" >>"$log" 2>&1 ||
        fail 'the certificate authority could not be made' 'see the log' "$log"
    rm -rf "$EXTERNAL"
}

# A company's root CA and an intermediate CA for Puppet, with the CRL of each. The directory, with the root's key, is removed after the
# import. The two certificates and the two CRLs have different expiry dates.
make_external_root() {
    local log=$LOGS/ca.log
    install -d -o puppet -g puppet -m 0750 "$EXTERNAL"
    install -o puppet -g puppet -m 0640 "$LIVE_DIR/conf/external-root.cnf" "$EXTERNAL/openssl.cnf"
    as puppet bash -euc '
        cd "$1"
        new() { openssl req -config openssl.cnf -new -nodes "$@"; }
        crl() { openssl ca -config openssl.cnf -gencrl -cert "$1.pem" -keyfile "$1.key" -crldays "$2" -out "$1.crl"; }
        new -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-384 -sha384 -days 7300 -extensions root \
            -subj "/O=Example/CN=Example Root CA" -keyout root.key -out root.pem
        new -newkey rsa:2048 -subj "/O=Example/CN=Example Puppet CA" -keyout intermediate.key -out intermediate.csr
        openssl x509 -req -in intermediate.csr -CA root.pem -CAkey root.key -set_serial 0x1001 -days 3650 -sha384 \
            -extfile openssl.cnf -extensions intermediate -out intermediate.pem
        touch index.txt
        echo 01 >crlnumber
        crl root 1000
        crl intermediate 1800
        cat intermediate.pem root.pem >bundle.pem
        cat intermediate.crl root.crl >crls.pem
    ' make_external_root "$EXTERNAL" >>"$log" 2>&1 || fail 'OpenSSL did not make the external root CA' 'see the log' "$log"
}

start_puppetserver() {
    daemon puppet "$LOGS/puppetserver.log" java -Xms256m -Xmx768m "${QUICK_JAVA[@]}" \
        -Djruby.logger.class=com.puppetlabs.jruby_utils.jruby.Slf4jLogger -Djruby.lib=/usr/share/jruby/lib \
        -Dlogappender=STDOUT --add-opens java.base/sun.nio.ch=ALL-UNNAMED --add-opens java.base/java.io=ALL-UNNAMED \
        -jar /usr/share/puppetserver/puppetserver.jar --config "$STATE/puppetserver/conf.d" \
        --bootstrap-config /etc/puppet/puppetserver/services.d --restart-file "$STATE/puppetserver/run/restart"
}

write_puppetdb_configuration() {
    local directory file
    for directory in puppetdb puppetdb/conf.d puppetdb/ssl puppetdb/var; do
        install -d -o puppetdb -g puppetdb -m 0750 "$STATE/$directory"
    done
    for file in logback.xml request-logging.xml; do
        render "$file" "$STATE/puppetdb/$file" puppetdb 0640
    done
    install -o puppetdb -g puppetdb -m 0640 /etc/puppetdb/conf.d/auth.conf "$STATE/puppetdb/conf.d/"
    printf '%s\n' localhost "$CONTROLLER" >"$STATE/puppetdb/certificate-allowlist"
}

start_puppetdb() {
    local ssl=$STATE/puppetdb/ssl
    install -o puppetdb -g puppetdb -m 0400 "$STATE/ssl/private_keys/localhost.pem" "$ssl/private.pem"
    install -o puppetdb -g puppetdb -m 0444 "$STATE/ssl/certs/localhost.pem" "$ssl/public.pem"
    install -o puppetdb -g puppetdb -m 0444 "$STATE/ssl/certs/ca.pem" "$ssl/ca.pem"
    daemon puppetdb "$LOGS/puppetdb.log" java -Xmx256m "${QUICK_JAVA[@]}" -Dlogappender=STDOUT \
        -Djava.security.egd=/dev/urandom -cp /usr/share/puppetdb/puppetdb.jar clojure.main -m puppetlabs.puppetdb.core services \
        --config "$STATE/puppetdb/conf.d" --bootstrap-config /etc/puppetdb/bootstrap.cfg \
        --restart-file "$STATE/puppetdb/var/restart"
}
