# Lets the real NetworkManager bring a device's tunnel up from the configuration that the gateway wrote.
#   networkmanager.sh CONFIGURATION FOLDER     in a mount and a network namespace of its own
# Where the kernel has no WireGuard, it reads the connection, and then makes the same of a tunnel of wireguard-go.
set -eu
text=$1 folder=$2

mount --make-rprivate /
connections=/etc/NetworkManager/system-connections
for path in "$connections" /etc/systemd/system /run/dbus /run/NetworkManager /run/wireguard /var/lib/NetworkManager; do
    mkdir --parents "$path"
    mount -t tmpfs tmpfs "$path"
done
# Without udev, links are ready when they appear: NetworkManager knows that by a file system that is read-only.
mount -o remount,bind,ro /sys

# As docs/devices.md says.
(umask 077 && awk '/^# \/etc\//{file=$2} {print >file}' "$text")

cat >"$folder/NetworkManager.conf" <<END
[main]
plugins=keyfile
dns=none
rc-manager=unmanaged
no-auto-default=*
[keyfile]
unmanaged-devices=except:interface-name:adit
END
dbus-daemon --system --nofork --nopidfile >/dev/null 2>&1 &
NetworkManager --no-daemon --config "$folder/NetworkManager.conf" --log-level=INFO >"$folder/NetworkManager.log" 2>&1 &
for _ in $(seq 200); do
    nmcli --terse general status >/dev/null 2>&1 && break
    sleep 0.05
done

nmcli --show-secrets --fields all connection show adit >"$folder/read"
if ! nmcli connection up adit >"$folder/up" 2>&1; then
    grep --quiet 'Operation not supported' "$folder/up"
    file=$connections/adit.nmconnection
    value() { sed --quiet "s/^$1=//p" "$file"; }
    wireguard-go adit >/dev/null 2>&1
    value preshared-key >"$folder/preshared"
    value private-key >"$folder/private"
    wg set adit private-key "$folder/private" \
        peer "$(sed --quiet 's/^\[wireguard-peer.\(.*\)\]/\1/p' "$file")" preshared-key "$folder/preshared" \
        endpoint "$(value endpoint)" allowed-ips "$(value allowed-ips | tr ';' ',' | sed 's/,$//')" \
        persistent-keepalive "$(value persistent-keepalive)"
    # The connection has to be of the kind that the interface is.
    flag() { ip -details link show adit | grep --only-matching "$1 o[nf]*" | sed 's/.* on/true/; s/.* off/false/'; }
    tun="[tun]\nmode=1\npi=$(flag pi)\nvnet-hdr=$(flag vnet_hdr)\n\n"
    sed '/^\[wireguard/,/^\[ipv4/{/^\[ipv4/!d}; s/^type=.*/type=tun/; s/^\[ipv4/'"$tun"'&/' "$file" >"$folder/tun"
    install --mode 600 "$folder/tun" "$file"
    nmcli connection reload
    for _ in $(seq 100); do
        nmcli connection up adit && break
        sleep 0.1
    done
fi

service=/etc/systemd/system/adit-replies.service
if [ -e "$service" ]; then
    sed --quiet 's/^ExecStart=-\?//p' "$service" >"$folder/replies"
    sh -ex "$folder/replies"
fi
echo "the tunnel is up"
sleep infinity
