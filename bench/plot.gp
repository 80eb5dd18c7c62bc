# SPDX-License-Identifier: Apache-2.0
# Rate and cost against the number of connections: a row for each kernel, from
# the files that bench/summary.awk makes. Variables: folder, kernels, out.
n = words(kernels)
set terminal svg size 900, 340 * n font "sans-serif,12" background "white"
set output out
set multiplot layout n, 2
set logscale x
set yrange [0:*]
set grid
set key outside below horizontal
set datafile missing "?"
set xlabel "connections"
do for [i = 1:n] {
	kernel = word(kernels, i)
	data = folder."/".kernel."/echo.dat"
	last = int(system("head -n 1 ".data." | wc -w"))
	set title "Linux ".kernel.": echoes of 64 bytes a second"
	plot for [c = 2:last:2] data using 1:c with linespoints lw 2 \
		title columnheader(c)
	set title "Linux ".kernel.": CPU µs of the proxy for each"
	plot for [c = 3:last:2] data using 1:c with linespoints lw 2 \
		title columnheader(c)
}
unset multiplot
