// The layers that FINN has in HLS C++ only, as RTL: same AXI streams, same folding, same order of words, one word a cycle
// where the C++ says `pipeline II=1`. Vitis HLS puts a register slice of two words at every AXI port
// (register_mode=both); between the slices a layer is taken to be one register deep, so that a word comes out two cycles
// after it went in. Valid, ready and data of every port are registers. Lanes of a word: the first in the lowest bits.

// Register slice of two words.
module nash_slice #(int unsigned W = 8) (
	input  logic  clk, input  logic  rst_n,
	input  logic [W-1:0]  idat, input  logic  ivld, output logic  irdy,
	output logic [W-1:0]  odat, output logic  ovld, input  logic  ordy
);
	logic [W-1:0]  Out, Spare;
	logic  OutVld = 0, SpareVld = 0;
	assign  irdy = !SpareVld;
	assign  ovld = OutVld;
	assign  odat = Out;
	always_ff @(posedge clk) begin
		if(!rst_n) begin
			OutVld <= 0;
			SpareVld <= 0;
		end
		else if(!OutVld || ordy) begin
			OutVld <= SpareVld || ivld;
			Out <= SpareVld? Spare : idat;
			SpareVld <= 0;
		end
		else if(ivld && irdy) begin
			SpareVld <= 1;
			Spare <= idat;
		end
	end
endmodule

// DuplicateStreams: a word goes to all N readers at once, when all have room.
module nash_duplicate #(int unsigned W = 8, int unsigned N = 2) (
	input  logic  clk, input  logic  rst_n,
	input  logic [W-1:0]  idat, input  logic  ivld, output logic  irdy,
	output logic [N-1:0][W-1:0]  odat, output logic [N-1:0]  ovld, input  logic [N-1:0]  ordy
);
	uwire [W-1:0]  word;
	uwire  vld;
	uwire [N-1:0]  room;
	uwire  take = vld && &room;
	nash_slice #(W) in(.clk, .rst_n, .idat, .ivld, .irdy, .odat(word), .ovld(vld), .ordy(take));
	for(genvar  i = 0; i < N; i++)
		nash_slice #(W) out(.clk, .rst_n, .idat(word), .ivld(take), .irdy(room[i]),
			.odat(odat[i]), .ovld(ovld[i]), .ordy(ordy[i]));
endmodule

// ElementwiseAdd: PE sums of two streams, operands of any width and sign.
module nash_add #(
	int unsigned PE = 1, int unsigned LW = 8, bit LSIGNED = 1, int unsigned RW = 8, bit RSIGNED = 1, int unsigned OW = 9
) (
	input  logic  clk, input  logic  rst_n,
	input  logic [PE*LW-1:0]  ldat, input  logic  lvld, output logic  lrdy,
	input  logic [PE*RW-1:0]  rdat, input  logic  rvld, output logic  rrdy,
	output logic [PE*OW-1:0]  odat, output logic  ovld, input  logic  ordy
);
	uwire [PE-1:0][LW-1:0]  l;
	uwire [PE-1:0][RW-1:0]  r;
	uwire  lv, rv, room;
	uwire [PE-1:0][OW-1:0]  sum;
	uwire  take = lv && rv && room;
	nash_slice #(PE*LW) lhs(.clk, .rst_n, .idat(ldat), .ivld(lvld), .irdy(lrdy), .odat(l), .ovld(lv), .ordy(take));
	nash_slice #(PE*RW) rhs(.clk, .rst_n, .idat(rdat), .ivld(rvld), .irdy(rrdy), .odat(r), .ovld(rv), .ordy(take));
	for(genvar  i = 0; i < PE; i++)
		assign  sum[i] = OW'($signed({LSIGNED && l[i][LW-1], l[i]})) + OW'($signed({RSIGNED && r[i][RW-1], r[i]}));
	nash_slice #(PE*OW) out(.clk, .rst_n, .idat(sum), .ivld(take), .irdy(room), .odat, .ovld, .ordy);
endmodule

// ElementwiseMul by a constant: PE products.
module nash_scale #(
	int unsigned PE = 1, int unsigned IW = 4, bit SIGNED = 0, int unsigned OW = 6, int FACTOR = 4
) (
	input  logic  clk, input  logic  rst_n,
	input  logic [PE*IW-1:0]  idat, input  logic  ivld, output logic  irdy,
	output logic [PE*OW-1:0]  odat, output logic  ovld, input  logic  ordy
);
	uwire [PE-1:0][IW-1:0]  x;
	uwire  vld, room;
	uwire [PE-1:0][OW-1:0]  product;
	uwire  take = vld && room;
	nash_slice #(PE*IW) in(.clk, .rst_n, .idat, .ivld, .irdy, .odat(x), .ovld(vld), .ordy(take));
	for(genvar  i = 0; i < PE; i++)
		assign  product[i] = OW'($signed({SIGNED && x[i][IW-1], x[i]}) * FACTOR);
	nash_slice #(PE*OW) out(.clk, .rst_n, .idat(product), .ivld(take), .irdy(room), .odat, .ovld, .ordy);
endmodule

// Pool: K words of a window in, their maximum or sum out; PE channels beside each other.
module nash_pool #(
	int unsigned PE = 1, int unsigned IW = 4, int unsigned OW = 4, int unsigned K = 9, bit SIGNED = 0, bit SUM = 0
) (
	input  logic  clk, input  logic  rst_n,
	input  logic [PE*IW-1:0]  idat, input  logic  ivld, output logic  irdy,
	output logic [PE*OW-1:0]  odat, output logic  ovld, input  logic  ordy
);
	uwire [PE-1:0][IW-1:0]  x;
	uwire  vld, room;
	logic [PE-1:0][OW-1:0]  Acc;
	uwire [PE-1:0][OW-1:0]  next;
	logic [$clog2(K+1)-1:0]  Cnt = 0;
	uwire  last = Cnt == K-1;
	uwire  take = vld && (room || !last);
	nash_slice #(PE*IW) in(.clk, .rst_n, .idat, .ivld, .irdy, .odat(x), .ovld(vld), .ordy(take));
	for(genvar  i = 0; i < PE; i++) begin
		uwire signed [OW:0]  value = (OW+1)'($signed({SIGNED && x[i][IW-1], x[i]}));
		uwire signed [OW:0]  acc = $signed({SIGNED && Acc[i][OW-1], Acc[i]});
		assign  next[i] = Cnt == 0? OW'(value) : SUM? OW'(acc + value) : value > acc? OW'(value) : OW'(acc);
	end
	always_ff @(posedge clk) begin
		if(!rst_n)  Cnt <= 0;
		else if(take) begin
			Acc <= next;
			Cnt <= last? 0 : Cnt + 1;
		end
	end
	nash_slice #(PE*OW) out(.clk, .rst_n, .idat(next), .ivld(take && last), .irdy(room), .odat, .ovld, .ordy);
endmodule

// GlobalAccPool: sums over PIXELS pixels of FOLDS words; they leave after the last pixel, and nothing enters then.
module nash_accumulate #(
	int unsigned PE = 1, int unsigned IW = 4, int unsigned OW = 8, int unsigned PIXELS = 16, int unsigned FOLDS = 1,
	bit SIGNED = 0
) (
	input  logic  clk, input  logic  rst_n,
	input  logic [PE*IW-1:0]  idat, input  logic  ivld, output logic  irdy,
	output logic [PE*OW-1:0]  odat, output logic  ovld, input  logic  ordy
);
	uwire [PE-1:0][IW-1:0]  x;
	uwire  vld, room;
	logic [PE*OW-1:0]  Sums[FOLDS];
	logic [$clog2(FOLDS+1)-1:0]  Fold = 0;
	logic [$clog2(PIXELS+1)-1:0]  Pixel = 0;  // PIXELS: the sums leave
	uwire  leaving = Pixel == PIXELS;
	uwire  take = vld && !leaving;
	uwire  give = leaving && room;
	uwire [PE-1:0][OW-1:0]  acc = Sums[Fold];
	uwire [PE-1:0][OW-1:0]  next;
	nash_slice #(PE*IW) in(.clk, .rst_n, .idat, .ivld, .irdy, .odat(x), .ovld(vld), .ordy(take));
	for(genvar  i = 0; i < PE; i++)
		assign  next[i] = (Pixel == 0? OW'(0) : acc[i]) + OW'($signed({SIGNED && x[i][IW-1], x[i]}));
	always_ff @(posedge clk) begin
		if(!rst_n) begin
			Fold <= 0;
			Pixel <= 0;
		end
		else if(take || give) begin
			if(take)  Sums[Fold] <= next;
			Fold <= Fold == FOLDS-1? 0 : Fold + 1;
			if(Fold == FOLDS-1)  Pixel <= leaving? 0 : Pixel + 1;
		end
	end
	nash_slice #(PE*OW) out(.clk, .rst_n, .idat(acc), .ivld(give), .irdy(room), .odat, .ovld, .ordy);
endmodule

// StreamingConcat: of each pixel the words of input 0, then those of input 1, and so on. FOLDS[i]: words of a pixel.
module nash_concat #(int unsigned W = 8, int unsigned N = 2, int unsigned FOLDS[N] = '{default: 1}) (
	input  logic  clk, input  logic  rst_n,
	input  logic [N-1:0][W-1:0]  idat, input  logic [N-1:0]  ivld, output logic [N-1:0]  irdy,
	output logic [W-1:0]  odat, output logic  ovld, input  logic  ordy
);
	uwire [N-1:0][W-1:0]  x;
	uwire [N-1:0]  vld;
	uwire  room;
	int unsigned  Sel = 0, Fold = 0;
	uwire  take = vld[Sel] && room;
	for(genvar  i = 0; i < N; i++)
		nash_slice #(W) in(.clk, .rst_n, .idat(idat[i]), .ivld(ivld[i]), .irdy(irdy[i]),
			.odat(x[i]), .ovld(vld[i]), .ordy(take && Sel == i));
	always_ff @(posedge clk) begin
		if(!rst_n) begin
			Sel <= 0;
			Fold <= 0;
		end
		else if(take) begin
			Fold <= Fold == FOLDS[Sel]-1? 0 : Fold + 1;
			if(Fold == FOLDS[Sel]-1)  Sel <= Sel == N-1? 0 : Sel + 1;
		end
	end
	nash_slice #(W) out(.clk, .rst_n, .idat(x[Sel]), .ivld(take), .irdy(room), .odat, .ovld, .ordy);
endmodule

// MVAU without thresholds: MW/SIMD words of a vector in, kept for all rows; after each as many cycles a word of PE rows out.
// Its weights are what FINN's streamer would send, in that order; the streamer never waits, so here it is a memory.
// BIPOLAR: a bit of weight means -1 or +1.
module nash_mvau #(
	int unsigned PE = 1, int unsigned SIMD = 1, int unsigned MW = 1, int unsigned MH = 1,
	int unsigned AW = 2, bit ASIGNED = 0, int unsigned WW = 2, bit BIPOLAR = 0, int unsigned OW = 8,
	parameter WEIGHTS = ""
) (
	input  logic  clk, input  logic  rst_n,
	input  logic [SIMD*AW-1:0]  idat, input  logic  ivld, output logic  irdy,
	output logic [PE*OW-1:0]  odat, output logic  ovld, input  logic  ordy
);
	localparam int unsigned  SF = MW/SIMD, NF = MH/PE;
	logic [PE*SIMD*WW-1:0]  Weights[NF*SF];
	initial  $readmemh(WEIGHTS, Weights);
	logic [SIMD*AW-1:0]  Kept[SF];
	logic [$clog2(SF+1)-1:0]  Synapse = 0;
	logic [$clog2(NF+1)-1:0]  Neuron = 0;
	logic [$clog2(NF*SF+1)-1:0]  Tile = 0;
	logic [PE-1:0][OW-1:0]  Acc, next;
	uwire [SIMD*AW-1:0]  fresh;
	uwire  vld, room;
	uwire  last = Synapse == SF-1;
	uwire  step = (vld || Neuron != 0) && (room || !last);
	uwire [SIMD*AW-1:0]  x = Neuron == 0? fresh : Kept[Synapse];
	uwire [PE*SIMD*WW-1:0]  w = Weights[Tile];
	nash_slice #(SIMD*AW) in(.clk, .rst_n, .idat, .ivld, .irdy, .odat(fresh), .ovld(vld), .ordy(step && Neuron == 0));
	always_comb
		for(int unsigned  p = 0; p < PE; p++) begin
			next[p] = Synapse == 0? OW'(0) : Acc[p];
			for(int unsigned  s = 0; s < SIMD; s++) begin
				automatic logic [AW-1:0]  a = x[s*AW +: AW];
				automatic logic [WW-1:0]  b = w[(p*SIMD+s)*WW +: WW];
				automatic logic signed [OW:0]  act = (OW+1)'($signed({ASIGNED && a[AW-1], a}));
				automatic logic signed [OW:0]  weight = !BIPOLAR? (OW+1)'($signed(b)) : b[0]? (OW+1)'(1) : -(OW+1)'(1);
				next[p] = next[p] + OW'(act * weight);
			end
		end
	always_ff @(posedge clk) begin
		if(!rst_n) begin
			Synapse <= 0;
			Neuron <= 0;
			Tile <= 0;
		end
		else if(step) begin
			if(Neuron == 0)  Kept[Synapse] <= fresh;
			Acc <= next;
			Tile <= Tile == NF*SF-1? 0 : Tile + 1;
			Synapse <= last? 0 : Synapse + 1;
			if(last)  Neuron <= Neuron == NF-1? 0 : Neuron + 1;
		end
	end
	nash_slice #(PE*OW) out(.clk, .rst_n, .idat(next), .ivld(step && last), .irdy(room), .odat, .ovld, .ordy);
endmodule

// VVAU, one filter a channel, without thresholds: an element of the window of PE channels a word, K words in, one out.
module nash_vvau #(
	int unsigned PE = 1, int unsigned CHANNELS = 1, int unsigned K = 9,
	int unsigned AW = 2, bit ASIGNED = 0, int unsigned WW = 2, bit BIPOLAR = 0, int unsigned OW = 8,
	parameter WEIGHTS = ""
) (
	input  logic  clk, input  logic  rst_n,
	input  logic [PE*AW-1:0]  idat, input  logic  ivld, output logic  irdy,
	output logic [PE*OW-1:0]  odat, output logic  ovld, input  logic  ordy
);
	localparam int unsigned  TILES = CHANNELS/PE*K;
	logic [PE*WW-1:0]  Weights[TILES];
	initial  $readmemh(WEIGHTS, Weights);
	logic [$clog2(K+1)-1:0]  Cnt = 0;
	logic [$clog2(TILES+1)-1:0]  Tile = 0;
	uwire [PE-1:0][AW-1:0]  x;
	logic [PE-1:0][OW-1:0]  Acc;
	uwire [PE-1:0][OW-1:0]  next;
	uwire  vld, room;
	uwire  last = Cnt == K-1;
	uwire  take = vld && (room || !last);
	uwire [PE-1:0][WW-1:0]  w = Weights[Tile];
	nash_slice #(PE*AW) in(.clk, .rst_n, .idat, .ivld, .irdy, .odat(x), .ovld(vld), .ordy(take));
	for(genvar  i = 0; i < PE; i++) begin
		uwire signed [OW:0]  act = (OW+1)'($signed({ASIGNED && x[i][AW-1], x[i]}));
		uwire signed [OW:0]  weight = !BIPOLAR? (OW+1)'($signed(w[i])) : w[i][0]? (OW+1)'(1) : -(OW+1)'(1);
		assign  next[i] = (Cnt == 0? OW'(0) : Acc[i]) + OW'(act * weight);
	end
	always_ff @(posedge clk) begin
		if(!rst_n) begin
			Cnt <= 0;
			Tile <= 0;
		end
		else if(take) begin
			Acc <= next;
			Cnt <= last? 0 : Cnt + 1;
			Tile <= Tile == TILES-1? 0 : Tile + 1;
		end
	end
	nash_slice #(PE*OW) out(.clk, .rst_n, .idat(next), .ivld(take && last), .irdy(room), .odat, .ovld, .ordy);
endmodule
