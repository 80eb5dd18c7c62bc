# SPDX-License-Identifier: Apache-2.0
# A picture of bench/summary.awk's CSV file: medians, and the middle half of what
# was measured. Variables: csv; kernels, as they are named there; peer, what that
# one is called; out.
stand_in = "native-stand-in"
fastest = word(kernels, words(kernels)) # with the stand-in, if it is there
real = ""
do for [kernel in kernels] {
	if (kernel ne stand_in) { real = real." ".kernel }
}
if (real eq "") { real = stand_in }
version(kernel) = kernel eq stand_in ? "" : kernel." "
how(kernel) = kernel eq stand_in ? "native speed, UNIX sockets for vsock" : \
	"real vsock, by Linux version"

set terminal svg size 1000, 1050 font "sans-serif,13" background "white"
set output out
set datafile separator ","
set style fill solid
set errorbars 0
set grid ytics lc rgb "#dddddd"
set border 3 lc rgb "#444444"
set tics nomirror out scale 0.5
set yrange [0:*]
set format y "%.0s%c"
set offsets graph 0, 0, 0.06, 0

# Those who don't see all colours can tell these apart: Okabe and Ito's.
colour(name) = name eq "auto" || name eq "buffer" ? 0x0072B2 : \
	name eq "musl" ? 0x56B4E9 : name eq peer ? 0xD55E00 : \
	name eq "socat" ? 0xE69F00 : name eq "systemd" ? 0x009E73 : \
	name eq "ncat" ? 0x888888 : 0xCC79A7
called(name) = name eq "auto" ? "ours" : name eq "musl" ? "ours, musl" : name
short(x) = x >= 9999.5 ? sprintf("%.0fk", x / 1000) : \
	x >= 999.5 ? sprintf("%.1fk", x / 1000) : \
	x >= 9.95 ? sprintf("%.0f", x) : sprintf("%.2g", x)

# Rows that begin so; of a column of such rows, what there is. Ours is "auto",
# or "buffer" where bulk was measured with that only.
rows(start) = "< grep '^".start.",' \"".csv."\""
listed(start, i) = system("grep '^".start.",' \"".csv."\" | cut -d , -f ".i." | \
	awk '/^auto$/ { ours = 1 } /^(tcp|vsock|empty|splice)$/ || seen[$0]++ || \
	(ours && /^buffer$/) { next } { print }'")

# A cluster of bars for each of the beginnings, named by text(i).
bars = "names = listed(word(starts, 1), 6); w = words(names) + 1; \
	set xtics (); do for [c = 1:words(starts)] { \
	set xtics add (text(c) (c - 0.5) * w) }; \
	plot [0.3:words(starts) * w - 0.3] 0 lc rgb '#444444' notitle, \
	for [c = 1:words(starts)] for [i = 1:words(names)] \
	rows(word(starts, c).','.metric.','.word(names, i)) \
	using ((c - 1) * w + i):7:(0.94) with boxes lc rgb colour(word(names, i)) \
	notitle, for [c = 1:words(starts)] for [i = 1:words(names)] \
	rows(word(starts, c).','.metric.','.word(names, i)) \
	using ((c - 1) * w + i):8:(0):($9 - $8) with vectors nohead lc rgb 'black' \
	notitle, \
	for [c = 1:words(starts)] for [i = 1:words(names)] \
	rows(word(starts, c).','.metric.','.word(names, i)) \
	using ((c - 1) * w + i):9:(short($7)) with labels offset 0, 0.5 \
	font ',10' notitle"

set multiplot layout 3, 2 margins 0.06, 0.98, 0.05, 0.9 spacing 0.07, 0.11
all = listed("[^,]*,connect,vsock-to-ip,1", 6)
do for [i = 1:words(all)] {
	at = 0.06 + 0.13 * (i - 1)
	set object i rectangle from screen at, 0.97 to screen at + 0.02, 0.985 \
		fc rgb colour(word(all, i)) fs solid noborder
	set label i called(word(all, i)) at screen at + 0.026, 0.978
}

starts = ""
do for [kernel in real] {
	bulk = kernel.",bulk,vsock-to-ip,"
	starts = starts." ".bulk."up ".bulk."down"
}
text(c) = version(word(real, (c + 1) / 2)).(c % 2 ? "to TCP" : "to vsock")
heading(what, better, kernel) = "{/:Bold ".what."}\n{/*0.85 ".better.\
	" is better; ".how(kernel)."}"
metric = "rate"
set title heading("Bulk through vsock-to-ip, MB/s", "more", word(real, 1))
@bars
unset object
unset label
metric = "cpu"
set title heading("CPU seconds for 1 GB of that", "less", word(real, 1))
@bars

starts = ""
do for [clients in "1 8 64"] {
	starts = starts." ".fastest.",connect,ip-to-vsock,".clients
}
text(c) = word("1 8 64", c).(c == 1 ? " client" : " clients at once")
metric = "rate"
set title heading("Connections a second", "more", fastest)
@bars

many = word(listed(word(real, 1).",idle,ip-to-vsock", 4), 1)
starts = ""
do for [kernel in real] {
	starts = starts." ".kernel.",idle,ip-to-vsock,".many
}
text(c) = version(word(real, c))
metric = real eq stand_in ? "pss" : "all"
set title heading("Memory of an idle connection, KiB".(metric eq "pss" ? \
	", of processes" : ""), "less", word(real, 1))
@bars

start = fastest.",echo,ip-to-vsock,[0-9]*"
names = listed(start, 6)
set xtics autofreq
set logscale x
set xlabel "connections" offset 0, 0.5
lines = "plot [0.9:1200] 0 lc rgb '#444444' notitle, for [name in names] \
	rows(start.','.metric.','.name) using 4:7:8:9 with yerrorlines \
	lw 2 pt 7 ps 0.6 lc rgb colour(name) notitle"
metric = "rate"
set title heading("Echoes of 64 bytes a second", "more", fastest)
@lines
metric = "cpu"
set title heading("CPU µs of the proxy for each echo", "less", fastest)
@lines
unset multiplot
