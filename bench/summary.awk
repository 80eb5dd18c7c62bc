# SPDX-License-Identifier: Apache-2.0
# Makes a table (standard output) and a part of a CSV file of what bench/run
# measured on one kernel. Input: its raw file, then its missing file.
# Variables: kernel; release, its version; contestants, with commas; peer and peer2,
# names for those; csv, a file to append to; check=1: all values must be positive.

# group, metric, what it is called, what its values are multiplied by
function metric(group, name, label, factor) {
	metrics[group] = metrics[group] (metrics[group] == "" ? "" : " ") name
	labels[group, name] = label
	factors[name] = factor
}

function more_is_better(name) {
	return name == "rate"
}

function is_ours(name) {
	return name ~ /^(auto|musl|splice|buffer)$/
}

function is_proxy(name) {
	return name != "tcp" && name != "vsock" && name != "empty"
}

# Sorts values of a measurement and keeps their median, and the ends of what is left
# without the lower and the upper quarter.
function condense(key, n,   i, j, x, quarter, sorted) {
	for (i = 1; i <= n; i++) {
		x = values[key, i] + 0
		for (j = i - 1; j >= 1 && sorted[j] > x; j--)
			sorted[j + 1] = sorted[j]
		sorted[j + 1] = x
	}
	median[key] = (sorted[int((n + 1) / 2)] + sorted[int(n / 2) + 1]) / 2
	quarter = int(n / 4)
	low[key] = sorted[1 + quarter]
	high[key] = sorted[n - quarter]
}

function key_of(group, path, variant, contestant, name) {
	return group SUBSEP path SUBSEP variant SUBSEP contestant SUBSEP name
}

# What of an idle connection's memory is the load generator's: the client's TCP
# socket and the server's vsock socket, or the other way round.
function take_off_ends(key, part,   tcp, vsock, ends) {
	if (part[1] != "idle" || !is_proxy(part[4]) || part[5] ~ /ss$/)
		return
	tcp = key_of("idle", "direct", part[3], "tcp", part[5])
	vsock = key_of("idle", "direct", part[3], "vsock", part[5])
	if (!(tcp in median) || !(vsock in median))
		return
	ends = (median[tcp] + median[vsock]) / 2
	median[key] -= ends
	low[key] -= ends
	high[key] -= ends
}

# Without making an element of what is not there.
function median_of(key) {
	return key in median ? median[key] : ""
}

function better(a, b, name) {
	return b == "" || (more_is_better(name) ? a > b : a < b)
}

# The median of the best peer, or "".
function best_peer(group, path, variant, name,   i, key, best) {
	best = ""
	for (i = 3; i <= n_columns; i++) {
		key = key_of(group, path, variant, columns[i], name)
		if (!is_ours(columns[i]) && key in median && \
		    better(median[key], best, name))
			best = median[key]
	}
	return best
}

# What there would be without a proxy: the slower of TCP and vsock.
function no_proxy(group, variant, name,   tcp, vsock) {
	if (group == "start")
		return median_of(key_of(group, "direct", "-", "empty", name))
	if (group == "idle" || name == "cpu")
		return ""
	tcp = median_of(key_of(group, "direct", variant, "tcp", name))
	vsock = median_of(key_of(group, "direct", variant, "vsock", name))
	if (tcp == "" || vsock == "")
		return ""
	return better(tcp, vsock, name) ? vsock : tcp
}

function short(x) {
	return sprintf(x >= 99.95 ? "%.0f" : x >= 9.995 ? "%.1f" : "%.2f", x)
}

function ratio(a, b) {
	return a == "" || b == "" || b == 0 ? "-" : sprintf("%.2f", a / b)
}

function title(name) {
	return name == "peer" ? peer : name == "peer2" ? peer2 : name
}

function write_csv(   i, part, key) {
	for (i = 1; i <= n_keys; i++) {
		key = keys[i]
		split(key, part, SUBSEP)
		if (part[5] == "n" || part[5] == "bytes")
			continue
		printf "%s,%s,%s,%s,%s,%s,%g,%g,%g,%d,%s,%s\n", kernel, part[1],
		    part[2], part[3], part[5], title(part[4]), median[key],
		    low[key], high[key], count[key],
		    ratio(median[key], best_peer(part[1], part[2], part[3],
			part[5])),
		    ratio(median[key], no_proxy(part[1], part[3], part[5])) >>csv
	}
}

# A line of medians, with the ratios of the first of ours, and one of ranges.
function write_row(group, path, variant, name,   i, key, lead, range, many, f) {
	f = factors[name]
	lead = ""
	many = 0
	range = ""
	printf "%-12s %6s", path, variant == "-" ? "" : variant
	for (i = 1; i <= n_columns; i++) {
		key = key_of(group, is_proxy(columns[i]) ? path : "direct", variant,
		    columns[i], name)
		if (lead == "" && is_ours(columns[i]) && key in median)
			lead = median[key]
		printf " %9s", !(key in median) ? "-" : short(median[key] * f) \
		    (count[key] == 1 && repetitions > 1 ? "'" : "")
		if (key in count && count[key] > 1)
			many = 1
		range = range sprintf(" %9s", !(key in median) ? "" : \
		    short(low[key] * f) "-" short(high[key] * f))
	}
	printf " | %6s %6s %6s\n",
	    ratio(lead, best_peer(group, path, variant, name)),
	    ratio(lead, median_of(key_of(group, path, variant, "socat", name))),
	    ratio(lead, no_proxy(group, variant, name))
	if (many && name == first_metric)
		printf "%19s%s\n", "", range
}

function write_table(   g, m, i, n, names, part, group) {
	for (g = 1; g <= n_groups; g++) {
		group = groups[g]
		n = split(metrics[group], names, " ")
		first_metric = ""
		for (m = 1; m <= n; m++) {
			if (!((group, names[m]) in measured))
				continue
			if (first_metric == "")
				first_metric = names[m]
			printf "\n%s (%s is better)\n%-12s %6s",
			    labels[group, names[m]],
			    more_is_better(names[m]) ? "more" : "less", "", ""
			for (i = 1; i <= n_columns; i++)
				printf " %9s", title(columns[i])
			printf " | %6s %6s %6s\n", "/best", "/socat", "/none"
			for (i = 1; i <= n_rows[group]; i++) {
				split(rows[group, i], part, SUBSEP)
				write_row(group, part[1], part[2], names[m])
			}
		}
	}
}

function write_checks(   i, ways, load, iperf) {
	split("up down", ways, " ")
	for (i = 1; i <= 2; i++) {
		load = median_of(key_of("bulk", "direct", ways[i], "tcp", "rate"))
		iperf = median_of(key_of("iperf3", "direct", ways[i], "tcp", "rate"))
		if (iperf != "" && load != "")
			printf "%scross-check: direct TCP %s: %s MB/s here, " \
			    "%s MB/s by iperf3\n", i == 1 ? "\n" : "", ways[i], short(load), short(iperf)
	}
	for (i = 1; i <= n_reasons; i++)
		printf "%smissing: %s\n", i == 1 ? "\n" : "", reasons[i]
}

BEGIN {
	stand_in = kernel ~ /stand-in/
	metric("bulk", "rate", "bulk over one connection, MB/s", 1)
	metric("bulk", "cpu", "bulk, CPU seconds of the proxy per GB", 1)
	metric("rtt", "p50", "round trip of N bytes, median, us", 1)
	metric("rtt", "p99", "round trip of N bytes, 99th percentile, us", 1)
	metric("connect", "rate", "connections a second, N clients at once", 1)
	metric("connect", "cpu", "CPU of the proxy for 1,000 connections, ms", 1)
	metric("echo", "rate", "echo of 64 bytes over N connections, a second", 1)
	metric("echo", "p99", "the same, 99th percentile, us", 1)
	metric("echo", "cpu", "the same, CPU us of the proxy for each echo", 1)
	metric("idle", "all", "memory per idle connection of N, KiB; tcp, vsock: both ends", 1)
	metric("idle", "pss", stand_in ? "memory of processes per idle connection of N, " \
	    "KiB (PSS)" : "of which processes (PSS)", 1)
	metric("idle", "stacks", "of which kernel stacks", 1)
	metric("idle", "slab", "of which slab", 1)
	metric("start", "p50", "start until the first byte is back, us; none: an empty program", 1)
	metric("size", "kib", "size of the program, stripped, KiB", 1)
	n_columns = split("tcp,vsock," contestants, columns, ",")
	n_groups = split("bulk rtt connect echo idle start size", groups, " ")
}

FILENAME ~ /missing$/ {
	reasons[++n_reasons] = $0
	next
}

{
	if (is_proxy($4) && !(($1, $2, $3) in seen)) {
		seen[$1, $2, $3] = 1
		rows[$1, ++n_rows[$1]] = $2 SUBSEP $3
	}
	for (i = 5; i <= NF; i++) {
		split($i, pair, "=")
		key = key_of($1, $2, $3, $4, pair[1])
		if (is_proxy($4))
			measured[$1, pair[1]] = 1
		if (!(key in count))
			keys[++n_keys] = key
		values[key, ++count[key]] = pair[2]
		if (count[key] > repetitions)
			repetitions = count[key]
		if (pair[1] ~ /^(rate|p50|kib)$/ && !(pair[2] > 0))
			bad[++n_bad] = $0
		if (pair[1] == "cpu" && $1 == "bulk" && is_proxy($4) && \
		    !(pair[2] > 0))
			bad[++n_bad] = $0
		if (pair[1] == "rss" && is_proxy($4) && !(pair[2] > 0))
			bad[++n_bad] = $0
	}
}

END {
	for (i = 1; i <= n_keys; i++)
		condense(keys[i], count[keys[i]])
	for (i = 1; i <= n_keys; i++) {
		split(keys[i], part, SUBSEP)
		take_off_ends(keys[i], part)
	}
	printf "\nLinux %s%s; medians of %d (' of one), some with the middle half; the " \
	    "ratios\nat the end of a line are those of the first of ours\n", release,
	    stand_in ? ", natively, dynamic programs, WITH A STAND-IN FOR VSOCK (UNIX " \
	    "sockets):\nbulk and memory say little of real vsock" : "", repetitions
	write_table()
	write_checks()
	write_csv()
	fflush() # or errors come in the middle of the table
	for (i = 1; i <= n_bad; i++)
		print "bench: not positive: " bad[i] >"/dev/stderr"
	for (i = 1; check && i <= n_groups; i++) {
		if (n_rows[groups[i]] == 0 && !(stand_in && groups[i] == "start")) {
			print "bench: nothing for " groups[i] >"/dev/stderr"
			n_bad++
		}
	}
	exit (n_bad > 0)
}
