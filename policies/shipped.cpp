// policies/network.pt as a part of the program: wherever the program is, so is its network.
asm(R"(
  .section .rodata
  .global attune_shipped_network
  .global attune_shipped_network_end
  .balign 16
attune_shipped_network:
  .incbin ")" ATTUNE_SHIPPED_NETWORK R"("
attune_shipped_network_end:
  .previous
)");
