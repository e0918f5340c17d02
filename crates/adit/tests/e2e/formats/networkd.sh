# Lets the real systemd-networkd bring a device's tunnel up from the configuration that the gateway wrote.
#   networkd.sh CONFIGURATION FOLDER     in a mount and a network namespace of its own
# Where the kernel has no WireGuard, networkd reads the .netdev, and is then given a tunnel of wireguard-go for the rest.
set -eu
text=$1 folder=$2

mount --make-rprivate /
for path in /etc/systemd/network /etc/systemd/system /run/systemd /run/dbus /run/wireguard; do
    mkdir --parents "$path"
    mount -t tmpfs tmpfs "$path"
done
# Without udev, links are ready when they appear: networkd knows that by a file system that is read-only.
mount -o remount,bind,ro /sys

# As docs/devices.md says.
umask 077
awk '/^# \/etc\//{file=$2} {print >file}' "$text"
chmod 644 /etc/systemd/network/*.network
chown root:systemd-network /etc/systemd/network/*.netdev
chmod 640 /etc/systemd/network/*.netdev

export SYSTEMD_LOG_TARGET=console SYSTEMD_LOG_LEVEL=debug
/lib/systemd/systemd-networkd >"$folder/networkd.log" 2>&1 &
networkd=$!
wait_for() {
    for _ in $(seq 200); do
        grep --quiet "$1" "$folder/networkd.log" && return
        sleep 0.05
    done
    echo "networkd did not say: $1" >&2
    exit 1
}
wait_for 'adit: netdev ready\|adit: .*Operation not supported'
if ! ip link show adit >/dev/null 2>&1; then
    kill "$networkd"
    wait "$networkd" || true
    netdev=/etc/systemd/network/50-adit.netdev
    value() { sed --quiet "s/^$1=//p" "$netdev"; }
    wireguard-go adit >/dev/null 2>&1
    value PresharedKey >"$folder/preshared"
    wg set adit private-key "$(value PrivateKeyFile)" fwmark "$(value FirewallMark | grep . || echo off)" \
        peer "$(value PublicKey)" preshared-key "$folder/preshared" endpoint "$(value Endpoint)" \
        allowed-ips "$(value AllowedIPs)" persistent-keepalive "$(value PersistentKeepalive)"
    mv "$netdev" "$folder"
    /lib/systemd/systemd-networkd >>"$folder/networkd.log" 2>&1 &
fi
wait_for 'adit: State changed: configuring -> configured'

service=/etc/systemd/system/adit-replies.service
if [ -e "$service" ]; then
    systemd-analyze verify "$service"
    sed --quiet 's/^ExecStart=-\?//p' "$service" >"$folder/replies"
    sh -ex "$folder/replies"
fi
echo "the tunnel is up"
sleep infinity
